"""cache.cut: a cache of any size becomes one that BuildKit is willing to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inlay.cache import manifest as manifests
from inlay.cache.config import graph_of, parse_config
from inlay.cache.cut import cut
from inlay.cache.manifest import BUILDKIT_LIMIT, CacheManifest, cache_manifest
from inlay.digest import Digest
from inlay.oci.descriptor import CREATED_AT, DESCRIPTION, OCI_LAYER_GZIP, UNCOMPRESSED, Descriptor
from inlay.oci.image import Manifest, parse_manifest
from inlay.solver.keys import RecordGraph, RecordNode, stack

if TYPE_CHECKING:
    from inlay.solver.keys import Chain

NOW = "2026-01-02T03:04:05.678Z"
SELECTOR = str(Digest.of("selector"))


def layer(name: str, size: int = 1) -> Descriptor:
    notes = {UNCOMPRESSED: Digest.of(f"diff {name}"), CREATED_AT: NOW, DESCRIPTION: f"RUN {name}"}
    return Descriptor(OCI_LAYER_GZIP, Digest.of(name), size).annotated(notes)


def build(stages: int, steps: int) -> tuple[RecordGraph, int]:
    """Some stages of some steps each, and a target of a step for each stage that takes something from it; the
    position of the target's last record. Layers of later stages are larger."""
    graph: RecordGraph = [RecordNode(Digest.of("base"))]
    own: list[Descriptor] = []
    last = 0
    for stage in range(stages):
        below, made = 0, []
        for step in range(steps):
            made.append(layer(f"{stage} {step}", size=1000 * stage + 10 - step))
            graph.append(
                RecordNode(
                    Digest.of(f"{stage} {step}"),
                    (((SELECTOR, below),),),
                    ((stack(made), NOW),),  # type: ignore[arg-type]
                )
            )
            below = len(graph) - 1
        graph.append(RecordNode(Digest.of(f"content {stage}")))
        content = len(graph) - 1
        own.append(layer(f"own {stage}"))
        inputs = ((("", last),), ((SELECTOR, below), ("", content)))
        graph.append(RecordNode(Digest.of(f"copy {stage}"), inputs, ((stack(own), NOW),)))  # type: ignore[arg-type]
        last = len(graph) - 1
    return graph, last


def names(left_out: object) -> list[str]:
    chains: list[Chain] = list(left_out)  # type: ignore[call-overload]
    return [chain.descriptor.annotation(DESCRIPTION) for chain in chains]


def test_a_cache_that_fits_is_left_alone() -> None:
    graph, target = build(2, 3)
    made = cut(graph, [target], cache_manifest)
    assert made.manifest == cache_manifest(graph)
    assert made.graph == graph
    assert not made.left_out


@pytest.mark.parametrize(("stages", "steps"), [(100, 60), (40, 120)])
@pytest.mark.parametrize("image_manifest", [True, False])
def test_a_cache_that_is_too_large_becomes_one_that_fits(
    stages: int, steps: int, image_manifest: bool
) -> None:
    graph, target = build(stages, steps)
    writes = 0

    def write(rest: RecordGraph) -> CacheManifest | None:
        nonlocal writes
        writes += 1
        return cache_manifest(rest, image_manifest=image_manifest)

    made = cut(graph, [target], write)
    assert made.left_out
    assert made.manifest is not None
    assert max(len(made.manifest.raw), len(made.manifest.config)) <= BUILDKIT_LIMIT
    assert max(len(made.manifest.raw), len(made.manifest.config)) > 0.9 * BUILDKIT_LIMIT
    assert writes < 20
    config = parse_config(made.manifest.config)
    blobs = {str(each.digest): each for each in made.manifest.layers}
    assert len(graph_of(config, blobs, None)) == len(made.graph)
    assert sum(bool(node.results) for node in made.graph) + len(made.left_out) == stages * (steps + 1)


def test_other_stages_with_small_layers_are_taken_down_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, target = build(4, 5)
    whole = cache_manifest(graph)
    assert whole is not None
    monkeypatch.setattr(manifests, "BUILDKIT_LIMIT", len(whole.raw) - 1500)
    made = cut(graph, [target], cache_manifest)
    assert names(made.left_out) == [f"RUN {n // 5} {4 - n % 5}" for n in range(len(made.left_out))]
    kept = {node.digest for node in made.graph if node.results}
    assert {Digest.of(f"copy {stage}") for stage in range(4)} <= kept
    # A step that lost its result is still a key, which those that stand on it are found by.
    assert [node.digest for node in made.graph] == [node.digest for node in graph]


def test_then_the_targets_last_steps_go_with_all_that_only_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, target = build(4, 5)
    monkeypatch.setattr(manifests, "BUILDKIT_LIMIT", 4500)
    made = cut(graph, [target], cache_manifest)
    assert made.manifest is not None
    kept = [node.digest for node in made.graph if node.results]
    assert kept == [Digest.of(f"copy {stage}") for stage in range(len(kept))]
    assert len(kept) < 4
    assert Digest.of("3 0") not in {node.digest for node in made.graph}


def test_where_nothing_fits_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, target = build(1, 1)
    monkeypatch.setattr(manifests, "BUILDKIT_LIMIT", 10)
    made = cut(graph, [target], cache_manifest)
    assert made.manifest is None
    assert names(made.left_out) == ["RUN 0 0", "RUN own 0"]


def test_equal_layers_have_a_descriptor_each() -> None:
    early, late = (layer("same").annotated({CREATED_AT: f"2026-01-0{day}T00:00:00Z"}) for day in (1, 2))
    graph = [
        RecordNode(Digest.of("root")),
        RecordNode(Digest.of("r"), ((("", 0),),), ((stack([early, late]), NOW),)),  # type: ignore[arg-type]
    ]
    made = cache_manifest(graph)
    assert made is not None
    parsed = parse_manifest(made.raw)
    assert isinstance(parsed, Manifest)
    assert sorted(each.annotation(CREATED_AT) for each in parsed.layers) == [
        early.annotation(CREATED_AT),
        late.annotation(CREATED_AT),
    ]
