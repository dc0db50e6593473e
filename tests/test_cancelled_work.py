"""What takes its time on files and blobs asks whether it is still wanted."""

from __future__ import annotations

import io
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cancelled import stops_when_cancelled
from inlay.actions.files.op import copy_tree
from inlay.archive.codecs import Gzip, Uncompressed
from inlay.archive.diff import diff_trees, is_same, lstat
from inlay.archive.layer import apply_entries, apply_layer
from inlay.archive.packing import pack_layer
from inlay.archive.tar import TarEntry, encode_header, write_entries
from inlay.archive.tidy import tidy_layer
from inlay.archive.untar import TarReader
from inlay.content.store import ContentStore
from inlay.digest import Digest
from inlay.layout import LayoutFolder, write_archive
from inlay.llb.keys import ContentSelector
from inlay.oci.descriptor import OCI_LAYER, Descriptor
from inlay.system.filebytes import copy_data
from inlay.trees.contenthash import content_digest
from inlay.trees.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 5 << 20
ZEROS = bytes(SIZE)
BLOB = Descriptor(OCI_LAYER, Digest.of(ZEROS), SIZE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a file of data, and one in a folder that has holes."""
    (tmp_path / "source/below").mkdir(parents=True)
    (tmp_path / "source/data").write_bytes(b"d" * SIZE)
    with (tmp_path / "source/below/holes").open("wb") as file:
        file.write(b"h" * 8192)
        file.truncate(SIZE)
    (tmp_path / "target").mkdir()
    return tmp_path / "source"


def digest_a_tree(source: Path) -> None:
    with closing(Tree.at(str(source))) as tree:
        content_digest(tree, [ContentSelector("/")])


def digest_a_file(source: Path) -> None:
    with closing(Tree.at(str(source))) as tree:
        content_digest(tree, [ContentSelector("/data")])


def walk_a_tree_by_patterns(source: Path) -> None:
    with closing(Tree.at(str(source))) as tree:
        content_digest(tree, [ContentSelector("/", include_patterns=("below/nothing*",))])


def copy_a_tree(source: Path) -> None:
    with closing(Tree.at(str(source))) as tree:
        copy_tree(tree, str(source.parent / "target"))


def copy_a_file(source: Path) -> None:
    with (source / "data").open("rb") as one, (source.parent / "target/data").open("wb") as other:
        os.ftruncate(other.fileno(), 0)
        copy_data(one.fileno(), other.fileno())


def compare_trees(source: Path) -> None:
    list(diff_trees(str(source.parent / "target"), str(source)))


def compare_files(source: Path) -> None:
    (source / "data").write_bytes(ZEROS)
    os.utime(source / "data", (1, 1))
    (source.parent / "target/data").write_bytes(ZEROS)
    os.utime(source.parent / "target/data", (1, 1))
    fds = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in (source, source.parent / "target")]
    try:
        one, other = (lstat(b"data", fd) for fd in fds)
        assert one is not None
        assert other is not None
        assert is_same(fds[0], fds[1], b"data", one, other)
    finally:
        for fd in fds:
            os.close(fd)


def tidy_a_layer(source: Path) -> None:
    tidy_layer(str(source), str(source.parent / "target"))


def write_a_tar(source: Path) -> None:
    write_entries([data_entry(source)], io.BytesIO())


def unpack_a_layer(source: Path) -> None:
    archive = io.BytesIO()
    write_entries([data_entry(source)], archive)
    archive.seek(0)
    apply_layer(archive, str(source.parent / "target"))


def unpack_entries(source: Path) -> None:
    apply_entries([TarEntry(b"empty")], str(source.parent / "target"))


def pass_over_an_archive(source: Path) -> None:
    reader = TarReader(io.BytesIO(encode_header(TarEntry(b"f", size=SIZE)) + ZEROS + bytes(1024)))
    assert [entry.name for entry in reader] == [b"f"]


def pack(source: Path) -> None:
    pack_layer([data_entry(source)], ContentStore(str(source.parent / "store")), Gzip())


def pack_plainly(source: Path) -> None:
    pack_layer([data_entry(source)], ContentStore(str(source.parent / "store")), Uncompressed())


def fetch_a_blob(source: Path) -> None:
    ContentStore(str(source.parent / "store")).fetch(BLOB, filled_store(source))


def take_up_a_blob(source: Path) -> None:
    store = ContentStore(str(source.parent / "store"))
    with store.ingest(BLOB.digest, SIZE) as ingest:
        ingest.write(ZEROS[: SIZE // 2])
    store.ingest(BLOB.digest, SIZE).discard()


def push_to_a_layout(source: Path) -> None:
    other = filled_store(source)
    LayoutFolder(str(source.parent / "store")).push_blob(BLOB, lambda: other.open_blob(BLOB))


def write_an_image_archive(source: Path) -> None:
    other = filled_store(source)
    write_archive(io.BytesIO(), [BLOB], [(BLOB, lambda: other.open_blob(BLOB))])


def data_entry(source: Path) -> TarEntry:
    return TarEntry(b"data", size=SIZE, open=lambda: os.open(source / "data", os.O_RDONLY))


def filled_store(source: Path) -> ContentStore:
    store = ContentStore(str(source.parent / "other"))
    store.put(ZEROS)
    return store


ALL: list[Callable[[Path], None]] = [
    digest_a_tree, digest_a_file, walk_a_tree_by_patterns, copy_a_tree, copy_a_file, compare_trees, compare_files,
    tidy_a_layer, write_a_tar, unpack_a_layer, unpack_entries, pass_over_an_archive, pack, pack_plainly, fetch_a_blob,
    take_up_a_blob, push_to_a_layout, write_an_image_archive,
]  # fmt: skip


@pytest.mark.parametrize("work", ALL)
def test_work_that_nobody_wants_any_more_stops(source: Path, work: Callable[[Path], None]) -> None:
    assert stops_when_cancelled(lambda: work(source))
    assert not [path for path in source.parent.glob("store/**/*") if path.is_file() and "new-" in path.name]
    assert not list(source.parent.glob("store/blobs/*/*"))


@pytest.mark.parametrize("work", ALL)
def test_work_that_is_wanted_goes_on_to_its_end(source: Path, work: Callable[[Path], None]) -> None:
    work(source)
