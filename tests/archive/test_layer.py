"""Layers and archives are unpacked as containerd would, and stay inside their folder."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from recorded_layers import recorded_layers

from inlay.archive import tar, whiteout
from inlay.archive.diff import all_entries, layer_entries
from inlay.archive.layer import Limits, apply_layer, clean_name, inherit_implied, merge_entries
from inlay.archive.tar import TarEntry, TarWriter, encode_header, write_entries
from inlay.digest import Digest
from inlay.errors import ContentError, UnsafeArchive
from inlay.trees.rooted import open_folder, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Item = TarEntry | tuple[TarEntry, bytes]


def archive(*items: Item) -> io.BytesIO:
    out = io.BytesIO()
    writer = TarWriter(out)
    for item in items:
        if isinstance(item, tuple) and not isinstance(item, TarEntry):
            entry, data = item
            writer.add(entry._replace(size=len(data), data=data))
        else:
            writer.add(item)
    writer.close()
    out.seek(0)
    return out


def file(name: bytes, data: bytes = b"data", mode: int = 0o644) -> tuple[TarEntry, bytes]:
    return TarEntry(name, mode=mode), data


def folder(name: bytes, mode: int = 0o755) -> TarEntry:
    return TarEntry(name, tar.DIRECTORY, mode)


def link(name: bytes, target: bytes) -> TarEntry:
    return TarEntry(name, tar.SYMLINK, 0o777, link=target)


def hard_link(name: bytes, target: bytes) -> TarEntry:
    return TarEntry(name, tar.HARD_LINK, link=target)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "outer" / "layer"
    path.mkdir(parents=True)
    (tmp_path / "outer" / "secret").write_text("outside")
    return path


@pytest.fixture(autouse=True)
def _no_descriptor_is_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


def outside(layer: Path) -> list[str]:
    return sorted(os.listdir(layer.parent))


def test_recorded_layers_come_back_byte_for_byte(tmp_path: Path) -> None:
    for number, recorded in enumerate(recorded_layers()):
        directory = tmp_path / str(number)
        directory.mkdir()
        applied = apply_layer(io.BytesIO(recorded), str(directory))
        assert applied.diff_id == Digest.of(recorded)
        assert applied.size == len(recorded)
        out = io.BytesIO()
        write_entries(layer_entries(str(directory)), out)
        assert out.getvalue() == recorded


def test_files_get_their_looks(layer: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    apply_layer(
        archive(
            TarEntry(b"home", tar.DIRECTORY, 0o2750, 5, 6, 10**9),
            (TarEntry(b"home/su", mode=0o6755, uid=7, gid=8, mtime_ns=2 * 10**9), b"x"),
            (TarEntry(b"home/ping", xattrs=((b"security.capability", capability), (b"user.a", b"b"))), b"x"),
            TarEntry(b"home/l", tar.SYMLINK, 0o777, 9, 10, 3 * 10**9, link=b"/nowhere"),
            TarEntry(b"home/null", tar.CHAR_DEVICE, 0o666, major=1, minor=3),
            TarEntry(b"home/disk", tar.BLOCK_DEVICE, 0o660, major=8, minor=17),
            TarEntry(b"home/fifo", tar.FIFO, 0o622),
            hard_link(b"home/other", b"home/su"),
        ),
        str(layer),
    )
    home = layer / "home"
    assert stat.S_IMODE(home.stat().st_mode) == 0o2750
    assert (home.stat().st_uid, home.stat().st_gid, home.stat().st_mtime_ns) == (5, 6, 10**9)
    assert os.getxattr(home / "ping", "security.capability") == capability
    assert os.getxattr(home / "ping", "user.a") == b"b"
    status = (home / "l").lstat()
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (9, 10, 3 * 10**9)
    assert (home / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE((home / "null").stat().st_mode) == 0o666
    assert (home / "disk").stat().st_rdev == os.makedev(8, 17)
    assert stat.S_ISFIFO((home / "fifo").stat().st_mode)
    assert (home / "other").samefile(home / "su")


def test_setuid_survives_a_change_of_owner(layer: Path) -> None:
    apply_layer(archive((TarEntry(b"su", mode=0o6755, uid=7, gid=8), b"x")), str(layer))
    assert stat.S_IMODE((layer / "su").stat().st_mode) == 0o6755


def test_files_belong_to_whom_the_archive_says_whatever_their_folder_would_have_it(layer: Path) -> None:
    """A file made in a folder with the setgid bit has the folder's group at first."""
    entries = [
        TarEntry(b"mail", tar.DIRECTORY, 0o2775, gid=8),
        file(b"mail/root's"),
        TarEntry(b"mail/link", tar.SYMLINK, link=b"x"),
        TarEntry(b"mail/of", tar.DIRECTORY, 0o755, uid=1000),
        file(b"mail/of/root"),
        TarEntry(b"bin", tar.DIRECTORY, 0o755),
        TarEntry(b"bin/tool", uid=1000),
        TarEntry(b"bin/other", gid=1000),
        file(b"bin/own"),
        hard_link(b"bin/same", b"bin/tool")._replace(uid=1000),
    ]
    apply_layer(archive(*entries), layer)
    owners = {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in layer.rglob("*")}
    assert {name: owner for name, owner in owners.items() if owner != (0, 0)} == {
        "mail": (0, 8),
        "of": (1000, 0),
        "tool": (1000, 0),
        "other": (0, 1000),
        "same": (1000, 0),
    }
    assert stat.S_IMODE((layer / "mail/of").stat().st_mode) == 0o755


def test_names_need_not_be_utf8(layer: Path) -> None:
    apply_layer(archive(file(b"caf\xe9/\xff")), str(layer))
    assert os.listdir(os.fsencode(layer)) == [b"caf\xe9"]
    assert (Path(os.fsdecode(os.fsencode(layer) + b"/caf\xe9/\xff"))).read_text() == "data"


def test_missing_folders_are_implied(layer: Path) -> None:
    umask = os.umask(0o77)
    applied = apply_layer(archive(file(b"a/b/c"), folder(b"a", 0o700)), str(layer))
    os.umask(umask)
    assert applied.implied == (b"a/b",)
    assert stat.S_IMODE((layer / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((layer / "a/b").stat().st_mode) == 0o755


def test_implied_folders_look_like_those_below(layer: Path, tmp_path: Path) -> None:
    below, bottom = tmp_path / "below", tmp_path / "bottom"
    for lower, mode in ((bottom, 0o700), (below, 0o1777)):
        (lower / "tmp").mkdir(parents=True)
        (lower / "tmp").chmod(mode)
    (bottom / "var").mkdir()
    os.chown(bottom / "var", 3, 4)
    applied = apply_layer(archive(file(b"tmp/f"), file(b"var/f"), file(b"new/f")), str(layer))
    inherit_implied(str(layer), applied.implied, [str(bottom), str(below)])
    assert stat.S_IMODE((layer / "tmp").stat().st_mode) == 0o1777
    assert (layer / "var").stat().st_uid == 3
    assert stat.S_IMODE((layer / "new").stat().st_mode) == 0o755


def test_whiteouts_take_overlayfs_form(layer: Path) -> None:
    apply_layer(archive(file(b"d/.wh.gone"), file(b"d/.wh..wh..opq", b""), file(b".wh..wh.plnk")), str(layer))
    assert whiteout.is_whiteout((layer / "d/gone").lstat())
    assert whiteout.is_opaque(str(layer / "d"))
    assert sorted(os.listdir(layer)) == ["d"]


def test_whiteouts_are_about_the_layers_below_whatever_their_order(layer: Path) -> None:
    apply_layer(
        archive(
            *(file(b".wh.a", b""), file(b"a", b"new")),
            *(file(b"b", b"new"), file(b".wh.b", b"")),
            *(file(b".wh.c", b""), folder(b"c")),
            *(file(b"d/f"), file(b".wh.d", b"")),
            *(file(b".wh.e", b""), file(b"e/f")),
        ),
        str(layer),
    )
    assert (layer / "a").read_text() == (layer / "b").read_text() == "new"
    for name in ("c", "d", "e"):
        assert whiteout.is_opaque(str(layer / name)), name
    assert (layer / "d/f").exists()
    assert (layer / "e/f").exists()


def test_the_last_entry_of_a_name_wins(layer: Path) -> None:
    applied = apply_layer(
        archive(
            *(file(b"f", b"1"), file(b"f", b"2")),
            *(file(b"x/y/z"), file(b"x", b"file")),
            *(file(b"q"), folder(b"q"), file(b"q/r")),
            *(folder(b"m", 0o700), file(b"m/n"), folder(b"m", 0o711)),
            *(link(b"s", b"f"), file(b"s", b"own")),
        ),
        str(layer),
    )
    assert applied.implied == ()
    assert (layer / "f").read_text() == "2"
    assert (layer / "x").read_text() == "file"
    assert (layer / "q/r").exists()
    assert (layer / "m/n").exists()
    assert stat.S_IMODE((layer / "m").stat().st_mode) == 0o711
    assert (layer / "s").read_text() == "own"


def test_times_of_folders_are_set_after_their_content(layer: Path) -> None:
    entry = folder(b"d")._replace(mtime_ns=5 * 10**9)
    apply_layer(archive(entry, file(b"d/f"), file(b"d/e/f")), str(layer))
    assert (layer / "d").stat().st_mtime_ns == 5 * 10**9
    assert (layer / "d/e").stat().st_mtime_ns == 0


def test_the_root_entry_is_ignored(layer: Path) -> None:
    apply_layer(archive(folder(b".", 0o700), file(b"./f"), file(b"/g")), str(layer))
    assert stat.S_IMODE(layer.stat().st_mode) == 0o755
    assert sorted(os.listdir(layer)) == ["f", "g"]


def test_symlinked_parents_are_followed_inside(layer: Path) -> None:
    apply_layer(
        archive(
            *(folder(b"usr"), link(b"lib", b"usr/lib"), file(b"lib/dangling")),
            *(link(b"abs", b"/usr"), file(b"abs/absolute")),
            *(link(b"up", b"../../../usr/x/.."), file(b"up/climbing")),
        ),
        str(layer),
    )
    assert sorted(os.listdir(layer / "usr")) == ["absolute", "climbing", "lib", "x"]
    assert (layer / "usr/lib/dangling").exists()
    assert outside(layer) == ["layer", "secret"]


def test_an_overlay_attribute_in_an_archive_is_dropped(layer: Path) -> None:
    attributes = (
        (b"trusted.overlay.redirect", b"/etc"),
        (b"user.overlay.opaque", b"y"),
        (b"user.fine", b"1"),
    )
    apply_layer(archive(folder(b"d")._replace(xattrs=attributes)), str(layer))
    assert os.listxattr(layer / "d") == ["user.fine"]


@pytest.mark.parametrize(
    "items",
    [
        [file(b"../escaped")],
        [file(b"a/../../escaped")],
        [folder(b"..")],
        [hard_link(b"f", b"../secret")],
        [hard_link(b"f", b"")],
        [hard_link(b"f", b"..")],
        [link(b"a", b"b"), link(b"b", b"a"), file(b"a/f")],
        [file(b".wh.")],
        [file(b".wh..")],
        [file(b"a/.wh...")],
        [file(b"/".join([b"a"] * 2100))],
    ],
)
def test_entries_that_reach_outside_are_refused(layer: Path, items: list[Item]) -> None:
    with pytest.raises(UnsafeArchive):
        apply_layer(archive(*items), str(layer))
    assert outside(layer) == ["layer", "secret"]


@pytest.mark.parametrize(
    "items",
    [
        [link(b"out", b".."), file(b"out/escaped")],
        [link(b"out", b"../.."), file(b"out/x/escaped")],
        [link(b"out", b"/proc/self/cwd"), file(b"out/escaped")],
        [link(b"f", b"../secret"), file(b"f", b"overwritten")],
        [link(b"f", b"../secret"), hard_link(b"g", b"f"), file(b"h")],
        [link(b"d", b".."), folder(b"d", 0o777), file(b"d/escaped")],
        [link(b"d", b"../secret"), TarEntry(b"d", tar.FIFO)],
        [link(b"d", b".."), file(b"d/.wh.secret")],
        [link(b"d", b".."), file(b"d/.wh..wh..opq")],
        [link(b"a", b"b"), link(b"b", b".."), file(b"a/escaped")],
        [folder(b"x"), link(b"x/up", b"../.."), file(b"x/up/escaped"), file(b"x/up/secret")],
    ],
)
def test_links_out_of_the_tree_lead_nowhere(layer: Path, items: list[Item]) -> None:
    before = (layer.parent / "secret").stat()
    try:
        apply_layer(archive(*items), str(layer))
    except ContentError:
        pass
    after = (layer.parent / "secret").stat()
    assert outside(layer) == ["layer", "secret"]
    assert (layer.parent / "secret").read_text() == "outside"
    assert (after.st_mode, after.st_uid, after.st_nlink) == (before.st_mode, before.st_uid, 1)
    assert not whiteout.is_opaque(str(layer.parent))


def test_a_hard_link_through_a_symlink_stays_inside(layer: Path) -> None:
    with pytest.raises(ContentError, match="cannot be unpacked"):
        apply_layer(archive(link(b"out", b".."), hard_link(b"f", b"out/secret")), str(layer))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([hard_link(b"f", b"missing")], "No such file"),
        ([file(b"f"), file(b"f/g")], "Not a directory"),
        ([file(b"n" * 256)], "too long"),
        ([folder(b"d"), hard_link(b"f", b"d")], "not permitted"),
        ([TarEntry(b"v", b"V")], "kind b'V'"),
        ([TarEntry(b"f", uid=1 << 33)], "cannot be given"),
    ],
)
def test_impossible_entries_are_named(layer: Path, items: list[Item], message: str) -> None:
    with pytest.raises(ContentError, match=message):
        apply_layer(archive(*items), str(layer))


def test_bombs_are_stopped(layer: Path) -> None:
    many = archive(*(file(b"f%d" % i, b"") for i in range(50)))
    with pytest.raises(UnsafeArchive, match="30 entries"):
        apply_layer(many, str(layer), limits=Limits(entries=30))
    with pytest.raises(UnsafeArchive, match="1000 bytes"):
        apply_layer(archive(file(b"big", bytes(2000))), str(layer), limits=Limits(size=1000))
    endless = io.BytesIO(archive(file(b"f")).getvalue() + bytes(100_000))
    with pytest.raises(UnsafeArchive, match="5000 bytes"):
        apply_layer(endless, str(layer), limits=Limits(size=5000))


def test_a_huge_sparse_file_counts_with_its_holes(layer: Path) -> None:
    body = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.name=sparse\n"
    body += b"37 GNU.sparse.realsize=1099511627776\n"
    pax = bytearray(encode_header(TarEntry(b"x", size=len(body))))
    pax[156:157] = b"x"
    pax[148:156] = b" " * 8
    pax[148:156] = b"%06o\0 " % sum(pax)
    data = (
        bytes(pax)
        + body.ljust(512, b"\0")
        + encode_header(TarEntry(b"s", size=512))
        + b"0\n".ljust(512, b"\0")
    )
    with pytest.raises(UnsafeArchive, match="unpacks to more"):
        apply_layer(io.BytesIO(data), str(layer), limits=Limits.for_blob(1000))
    apply_layer(io.BytesIO(data), str(layer))
    assert (layer / "sparse").stat().st_size == 1 << 40
    assert (layer / "sparse").stat().st_blocks == 0


def test_limits_leave_room_for_what_gzip_can_do() -> None:
    assert Limits.for_blob(100 << 20).size >= 1032 * (100 << 20)


def test_merging_carries_out_whiteouts(layer: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    apply_layer(archive(file(b"a"), file(b"d/old"), file(b"e/old"), file(b"f/old")), str(layer))
    apply_layer(
        archive(file(b".wh.a"), file(b"d/.wh..wh..opq"), file(b"d/new"), file(b"e/.wh.old"), file(b"f")),
        str(top),
    )
    merge_entries(all_entries(str(top)), str(layer))
    assert sorted(str(path.relative_to(layer)) for path in layer.rglob("*")) == ["d", "d/new", "e", "f"]


def test_merging_copies_everything_about_a_file(layer: Path, tmp_path: Path) -> None:
    sparse = tmp_path / "from" / "sparse"
    sparse.parent.mkdir()
    with sparse.open("wb") as out:
        out.truncate(10 << 20)
        out.seek(5 << 20)
        out.write(b"middle")
    os.setxattr(sparse, "user.a", b"b")
    os.link(sparse, sparse.parent / "twin")
    merge_entries(all_entries(str(sparse.parent)), str(layer))
    copied = layer / "sparse"
    assert copied.read_bytes() == sparse.read_bytes()
    assert copied.stat().st_blocks * 512 < 1 << 20
    assert copied.stat().st_mtime_ns == sparse.stat().st_mtime_ns
    assert os.getxattr(copied, "user.a") == b"b"
    assert copied.samefile(layer / "twin")


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        (b"a/b", b"a/b"),
        (b"/a//b/", b"a/b"),
        (b"./a/./b", b"a/b"),
        (b"a/../b", b"b"),
        (b".", b""),
        (b"/", b""),
        (b"...", b"..."),
        (b"./", b""),
        (b"./.a", b".a"),
        (b"a/.b", b"a/.b"),
        (b"a/..", b""),
        (b"a/.", b"a"),
    ],
)
def test_names_are_cleaned(name: bytes, clean: bytes) -> None:
    assert clean_name(name) == clean


def test_paths_are_followed_without_openat2(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root_fd: int, path: bytes, flags: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("inlay.system.linux.open_in_root", refuse)
    (layer / "a/b").mkdir(parents=True)
    (layer / "l").symlink_to("/a/../../a/b")
    root = os.open(layer, os.O_RDONLY)
    fd = open_folder(root, b"l/../b")
    assert os.fstat(fd).st_ino == (layer / "a/b").stat().st_ino
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        open_folder(root, b"l/missing")
    os.close(root)


def test_very_deep_trees_are_removed(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        open_below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = open_below
    os.close(here)
    remove_tree(str(tmp_path / "d"))
    assert os.listdir(tmp_path) == []
    remove_tree(str(tmp_path / "d"))
