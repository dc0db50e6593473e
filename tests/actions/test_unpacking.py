"""ADD unpacks archives where it is told to, and nowhere else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest
import zstandard

from inlay.actions.files.action import plan_action
from inlay.actions.files.writing import WritableTree
from inlay.errors import ContentError, SolveError
from inlay.llb.ops import Copy
from inlay.trees.tree import Tree
from recorded_trees import needs_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWN = os.getuid(), os.getgid()


def member(name: str, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.uid, info.gid = OWN
    info.mode = 0o640
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for info, data in members:
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target), b""


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target), b""


def folder(name: str, **facts: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, **facts), b""


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., Path]:
    """Add a file to `/to` of a tree; returns that folder."""
    (tmp_path / "source").mkdir()
    (tmp_path / "root").mkdir()

    def run(data: bytes, *, owner: tuple[int, int] | None = None) -> Path:
        (tmp_path / "source/x").write_bytes(data)
        with WritableTree.at(str(tmp_path / "root")) as tree, Tree.at(str(tmp_path / "source")) as source:
            action = Copy("/x", "/to/", mode=-1, timestamp=-1, unpack=True, create_dest_path=True)
            tree.carry_out(plan_action(action, tree, source=source, owner=owner))
        return tmp_path / "root/to"

    return run


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_archives_are_unpacked_however_they_are_packed(
    add: Callable[..., Path], pack: Callable[[bytes], bytes]
) -> None:
    to = add(pack(archive((member("d/f", mtime=5), b"data"))))
    assert (to / "d/f").read_bytes() == b"data"
    assert (to / "d/f").stat().st_mtime == 5
    assert stat.S_IMODE((to / "d/f").stat().st_mode) == 0o640
    assert stat.S_IMODE((to / "d").stat().st_mode) == 0o755


@pytest.mark.parametrize("data", [b"", b"text", bytes(10240), gzip.compress(b"text"), b"\x1f\x8b broken"])
def test_what_is_no_archive_is_copied(add: Callable[..., Path], data: bytes) -> None:
    assert (add(data) / "x").read_bytes() == data


def test_members_replace_what_is_there_but_folders_merge(add: Callable[..., Path]) -> None:
    to = add(
        archive(folder("d", mode=0o700), (member("d/f"), b"1"), (member("g/h"), b"2"), (member("k"), b"3"))
    )
    add(archive(folder("d", mode=0o750, mtime=9), (member("g"), b"file"), (member("k"), b"4")))
    assert sorted(os.listdir(to)) == ["d", "g", "k"]
    assert (to / "d/f").read_bytes() == b"1"
    assert ((to / "d").stat().st_mode & 0o7777, (to / "d").stat().st_mtime) == (0o750, 9)
    assert (to / "g").read_bytes() == b"file"
    with pytest.raises(SolveError, match="mkdir /to/k: not a directory"):
        add(archive((member("k/l"), b"5")))


def test_names_cannot_leave_the_destination(add: Callable[..., Path], tmp_path: Path) -> None:
    to = add(archive((member("../../up"), b"1"), (member("/abs"), b"2"), (member("a/../../b"), b"3")))
    assert sorted(os.listdir(to)) == ["abs", "b", "up"]
    assert sorted(os.listdir(tmp_path)) == ["root", "source"]


def test_links_cannot_leave_the_destination(add: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    to = add(
        archive(
            folder(str(tmp_path / "outside")[1:]),
            folder("outside"),
            link("abs", str(tmp_path / "outside")),
            (member("abs/f"), b"1"),
            link("rel", "../../outside"),
            (member("rel/f"), b"2"),
        )
    )
    assert os.listdir(tmp_path / "outside") == []
    assert (to / str(tmp_path / "outside/f")[1:]).read_bytes() == b"1"
    assert (to / "outside/f").read_bytes() == b"2"


def test_a_link_in_the_way_of_a_file_is_replaced(add: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    to = add(archive(link("f", str(tmp_path / "victim")), (member("f"), b"new")))
    assert (tmp_path / "victim").read_text() == "safe"
    assert (to / "f").read_bytes() == b"new"
    assert not (to / "f").is_symlink()


def test_hard_links_are_made_inside_the_destination(add: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    to = add(archive((member("d/f"), b"1"), hard_link("g", "d/f"), hard_link("h", "../d/f")))
    assert (to / "d/f").stat().st_nlink == 3
    for target in ("/etc/passwd", "../../victim", "none", "self"):
        with pytest.raises(SolveError, match="hard link to"):
            add(archive(hard_link("self", target)))


@needs_root
def test_owners_are_the_archive_s_unless_one_is_given(add: Callable[..., Path]) -> None:
    data = archive(folder("d", uid=5, gid=6), (member("d/f", uid=7, gid=8, mode=0o4755), b"1"))
    to = add(data)
    assert [((to / path).stat().st_uid, (to / path).stat().st_gid) for path in ("d", "d/f")] == [
        (5, 6),
        (7, 8),
    ]
    assert (to / "d/f").stat().st_mode & 0o7777 == 0o4755
    add(data, owner=(1, 2))
    assert [((to / path).stat().st_uid, (to / path).stat().st_gid) for path in ("d", "d/f")] == [
        (1, 2),
        (1, 2),
    ]


@needs_root
def test_devices_and_attributes_are_unpacked(add: Callable[..., Path]) -> None:
    block = member("b", type=tarfile.BLKTYPE, devmajor=7, devminor=9)
    fifo = member("p", type=tarfile.FIFOTYPE)
    marked = member("f", pax_headers={"SCHILY.xattr.user.x": "1"})
    to = add(archive((block, b""), (fifo, b""), (marked, b"1")))
    assert stat.S_ISBLK((to / "b").stat().st_mode)
    assert (to / "b").stat().st_rdev == os.makedev(7, 9)
    assert stat.S_ISFIFO((to / "p").stat().st_mode)
    assert os.getxattr(to / "f", "user.x") == b"1"


def test_a_name_that_is_too_long_is_an_error(add: Callable[..., Path]) -> None:
    with pytest.raises(SolveError, match="name too long"):
        add(archive((member("n" * 256), b"1")))


def test_a_broken_archive_is_an_error(add: Callable[..., Path]) -> None:
    data = gzip.compress(archive((member("a"), os.urandom(3000)), (member("b"), os.urandom(3000))))
    with pytest.raises(ContentError):
        add(data[: len(data) // 2])


def test_a_file_of_which_not_all_could_be_written_is_not_there(
    add: Callable[..., Path], tmp_path: Path
) -> None:
    whole = archive((member("first"), b"all of it"), (member("second"), bytes(1 << 20)))
    with pytest.raises(ContentError, match="ends inside a file"):
        add(whole[: 1 << 19])
    assert os.listdir(tmp_path / "root/to") == ["first"]


@pytest.mark.parametrize("name", ["s/f", "s/new/f"])
def test_members_below_a_link_to_nothing_are_an_error(add: Callable[..., Path], name: str) -> None:
    with pytest.raises(SolveError, match=r"/to/s, which is a link to nothing"):
        add(archive(link("s", "../missing"), (member(name), b"f")))


def test_folders_below_a_link_to_a_folder_are_made(add: Callable[..., Path]) -> None:
    to = add(archive(folder("d"), link("s", "d"), (member("s/new/f"), b"f")))
    assert (to / "d/new/f").read_bytes() == b"f"
