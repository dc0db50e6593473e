"""cache.results: which records get a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inlay import tasks
from inlay.cache.results import with_results
from inlay.digest import Digest
from inlay.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from inlay.solver.export import Export
from inlay.solver.keys import CacheRecord, Chain, RecordNode, stack

if TYPE_CHECKING:
    from inlay.cache.results import Mode

NAMES = ("root", "stage", "base", "copy", "top")


class Packer:
    """Records by name; those in `packed` have blobs, those in `empty` no layers at all."""

    def __init__(self, *, packed: set[str] = frozenset(), empty: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.packed, self.empty = set(packed), set(empty)
        self.made: set[str] = set()

    async def __call__(self, record: CacheRecord, *, pack: bool) -> Chain | None:
        if record.id in self.empty or not (pack or record.id in self.packed):
            return None
        if record.id not in self.packed:
            self.made.add(record.id)
        # A chain's lower layers are packed with it, as those of `base` are with those of `copy`.
        self.packed |= {"base", "copy"} if record.id in ("top", "copy") else set()
        return stack([Descriptor(OCI_LAYER_GZIP, Digest.of(record.id), 1)])


def export(remote: str = "") -> Export:
    """root -> stage -> copy <- base <- root; copy -> top."""
    inputs = {"root": (), "stage": ((0,),), "base": ((0,),), "copy": ((2,), (1,)), "top": ((3,),)}
    graph = [
        RecordNode(Digest.of(name), tuple(tuple(("", at) for at in links) for links in inputs[name]))
        for name in NAMES
    ]
    chain = stack([Descriptor(OCI_LAYER_GZIP, Digest.of("remote"), 1)])
    records = [
        CacheRecord(name, name, "then", chain if name == remote else None) if inputs[name] else None
        for name in NAMES
    ]
    return Export(graph, records, [4])


def results(packer: Packer, mode: Mode, remote: str = "") -> list[str]:
    graph = tasks.run(with_results(export(remote), packer, mode))
    assert all(created == "then" for node in graph for _, created in node.results)
    return [name for name, node in zip(NAMES, graph, strict=True) if node.results]


def test_max_packs_every_record_but_roots() -> None:
    packer = Packer()
    assert results(packer, "max") == ["stage", "base", "copy", "top"]
    assert packer.made == {"stage", "base", "copy", "top"}


def test_min_packs_the_target_and_takes_along_what_is_packed() -> None:
    packer = Packer()
    assert results(packer, "min") == ["base", "copy", "top"]
    assert packer.made == {"top"}
    assert results(Packer(packed={"stage"}), "min") == ["stage", "base", "copy", "top"]


def test_min_looks_below_a_target_without_layers() -> None:
    packer = Packer(empty={"top"})
    assert results(packer, "min") == ["base", "copy"]
    assert packer.made == {"copy"}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_imported_result_needs_no_packing(mode: Mode) -> None:
    packer = Packer(empty={"stage", "base", "copy", "top"})
    assert results(packer, mode, remote="stage") == ["stage"]
