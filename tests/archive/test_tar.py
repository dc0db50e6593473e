"""Archives are written as Go's archive/tar writes them, and everybody can read them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_layers import recorded_layers

from inlay.archive import tar
from inlay.archive.tar import TarEntry, TarWriter, encode_header, write_entries
from inlay.archive.untar import TarReader
from inlay.errors import ContentError

if TYPE_CHECKING:
    from pathlib import Path


def archive(*entries: TarEntry) -> bytes:
    out = io.BytesIO()
    write_entries(entries, out)
    return out.getvalue()


def names_by_gnu_tar(data: bytes, folder: Path) -> list[bytes]:
    (folder / "archive.tar").write_bytes(data)
    listing = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", folder / "archive.tar"], check=True, capture_output=True
    )
    return listing.stdout.splitlines()


def test_every_recorded_layer_is_written_again_byte_for_byte() -> None:
    for layer in recorded_layers():
        out = io.BytesIO()
        writer = TarWriter(out)
        reader = TarReader(io.BytesIO(layer))
        for entry in reader:
            if entry.kind == tar.FILE:
                entry = entry._replace(data=reader.read())
            writer.add(entry)
        writer.close()
        assert out.getvalue() == layer


def test_plain_header_is_one_ustar_block() -> None:
    header = encode_header(
        TarEntry(b"etc/passwd", mode=0o644, uid=1, gid=2, size=11, mtime_ns=1_700_000_000 * 10**9)
    )
    assert len(header) == 512
    assert header[:11] == b"etc/passwd\0"
    assert header[100:124] == b"0000644\x000000001\x000000002\x00"
    assert header[124:136] == b"00000000013\0"
    assert header[136:148] == b"14524770400\0"
    assert header[156:157] == b"0"
    assert header[257:265] == b"ustar\x0000"
    assert header[265:329] == bytes(64)
    assert header[329:345] == b"0000000\x000000000\x00"
    assert header[345:] == bytes(167)


def test_long_ascii_name_is_split_at_a_slash_as_ustar_allows() -> None:
    name = b"a" * 90 + b"/" + b"b" * 60
    header = encode_header(TarEntry(name))
    assert len(header) == 512
    assert header[:61] == b"b" * 60 + b"\0"
    assert header[345:436] == b"a" * 90 + b"\0"


@pytest.mark.parametrize(
    ("entry", "records"),
    [
        (TarEntry(b"n" * 101), b"111 path=" + b"n" * 101 + b"\n"),
        (TarEntry("größe".encode()), b"16 path=" + "größe".encode() + b"\n"),
        (TarEntry(b"caf\xe9"), b"13 path=caf\xe9\n"),
        (TarEntry(b"l", tar.SYMLINK, link=b"t" * 101), b"115 linkpath=" + b"t" * 101 + b"\n"),
        (TarEntry(b"f", uid=1 << 21, gid=1 << 22), b"15 gid=4194304\n15 uid=2097152\n"),
        (TarEntry(b"f", mtime_ns=-(10**9)), b"12 mtime=-1\n"),
        (
            TarEntry(b"f", xattrs=((b"user.b", b"\x00\xff"), (b"security.capability", b"x"))),
            b"38 SCHILY.xattr.security.capability=x\n26 SCHILY.xattr.user.b=\x00\xff\n",
        ),
    ],
)
def test_what_does_not_fit_becomes_a_pax_record(entry: TarEntry, records: bytes) -> None:
    blocks = encode_header(entry)
    assert len(blocks) == 1536
    assert blocks[156:157] == b"x"
    assert blocks[512 : 512 + len(records)] == records
    assert blocks[512 + len(records) : 1024] == bytes(512 - len(records))


def test_pax_header_has_gos_name_and_no_device_fields() -> None:
    blocks = encode_header(TarEntry("a/größe".encode(), tar.DIRECTORY, 0o755))
    assert blocks[:100].rstrip(b"\0") == b"a/gre/PaxHeaders.0"
    assert blocks[329:345] == bytes(16)
    assert blocks[1024:1030] == b"a/gre/"


def test_huge_sizes_are_kept_by_a_record() -> None:
    header = encode_header(TarEntry(b"f", size=1 << 33))
    assert b" size=8589934592\n" in header
    read = next(iter(TarReader(io.BytesIO(header))))
    assert read.size == 1 << 33


def test_times_are_cut_to_whole_seconds_as_containerd_does() -> None:
    (entry,) = TarReader(io.BytesIO(archive(TarEntry(b"f", mtime_ns=1_999_999_999))))
    assert entry.mtime_ns == 1_000_000_000


def test_entries_bring_their_data_from_descriptors(tmp_path: Path) -> None:
    big = os.urandom(3_000_001)
    (tmp_path / "big").write_bytes(big)
    entry = TarEntry(b"big", size=len(big), open=partial(os.open, tmp_path / "big", os.O_RDONLY))
    with tarfile.open(fileobj=io.BytesIO(archive(entry, TarEntry(b"after")))) as read:
        assert read.getnames() == ["big", "after"]
        member = read.extractfile("big")
        assert member is not None
        assert member.read() == big


@pytest.mark.parametrize(("size", "word"), [(9, "grew"), (11, "shrank"), (2_000_000, "shrank")])
def test_a_file_whose_size_is_another_stops_the_archive(tmp_path: Path, size: int, word: str) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    entry = TarEntry(b"some/file", size=size, open=partial(os.open, tmp_path / "f", os.O_RDONLY))
    with pytest.raises(ContentError, match=f"some/file {word}"):
        archive(entry)


def test_nul_in_a_name_is_refused() -> None:
    with pytest.raises(ContentError, match="NUL"):
        encode_header(TarEntry(b"a\0b"))


def test_gnu_tar_reads_what_is_written(tmp_path: Path) -> None:
    names = [
        b"plain",
        b"caf\xe9",
        "größe".encode(),
        b"d" * 80 + b"/" + b"e" * 70,
        b"x" * 250,
        b"a/" + b"y" * 200,
    ]
    assert names_by_gnu_tar(archive(*map(TarEntry, names)), tmp_path) == names


_NAMES = st.lists(
    st.binary(min_size=1, max_size=120).filter(
        lambda part: part not in (b".", b"..") and not set(part) & {0, 47}
    ),
    min_size=1,
    max_size=4,
).map(b"/".join)
_ENTRIES = st.builds(
    TarEntry,
    name=_NAMES,
    kind=st.sampled_from([tar.FILE, tar.DIRECTORY, tar.SYMLINK, tar.HARD_LINK, tar.FIFO]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 1 << 31),
    gid=st.integers(0, 1 << 31),
    mtime_ns=st.integers(-(1 << 34), 1 << 36).map(lambda seconds: seconds * 10**9),
    link=st.just(b""),
    xattrs=st.dictionaries(
        st.text("abc.", min_size=1, max_size=20).map(str.encode), st.binary(max_size=80), max_size=2
    ).map(lambda xattrs: tuple(sorted(xattrs.items()))),
)


@given(st.lists(_ENTRIES, max_size=4))
def test_what_is_written_is_read_again(entries: list[TarEntry]) -> None:
    assert list(TarReader(io.BytesIO(archive(*entries)))) == entries


@given(st.lists(_ENTRIES, max_size=3))
def test_tarfile_reads_the_same(entries: list[TarEntry]) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(*entries))) as read:
        members = read.getmembers()
    assert [os.fsencode(member.name) for member in members] == [entry.name for entry in entries]
    assert [(m.mode, m.uid, m.gid, m.mtime) for m in members] == [
        (e.mode, e.uid, e.gid, e.mtime_ns // 10**9) for e in entries
    ]


@pytest.mark.parametrize(
    "entry",
    [
        TarEntry(b"etc/passwd", mode=0o644, uid=1, gid=2, size=11, mtime_ns=1_700_000_000 * 10**9),
        TarEntry(b"n" * 100, mode=0o4755),
        TarEntry(b"p" * 150 + b"/" + b"n" * 90, uid=0o7777777, gid=0o7777777),
        TarEntry(b"bin", tar.DIRECTORY, mode=0o1777),
        TarEntry(b"bin/sh", tar.SYMLINK, mode=0o777, link=b"busybox"),
        TarEntry(b"bin/ash", tar.HARD_LINK, link=b"bin/busybox"),
        TarEntry(b"pipe", tar.FIFO, mode=0o600),
    ],
    ids=lambda entry: entry.name.decode()[:12],
)
def test_a_header_that_fits_ustar_is_the_one_that_tarfile_writes(entry: TarEntry) -> None:
    member = tarfile.TarInfo(os.fsdecode(entry.name))
    member.type = {
        tar.FILE: tarfile.REGTYPE,
        tar.DIRECTORY: tarfile.DIRTYPE,
        tar.SYMLINK: tarfile.SYMTYPE,
        tar.HARD_LINK: tarfile.LNKTYPE,
        tar.FIFO: tarfile.FIFOTYPE,
    }[entry.kind]
    member.mode, member.uid, member.gid, member.size = entry.mode, entry.uid, entry.gid, entry.size
    member.mtime, member.linkname = entry.mtime_ns // 10**9, os.fsdecode(entry.link)
    theirs = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    ours = bytearray(encode_header(entry))
    assert len(ours) == 512
    theirs[148:156] = ours[148:156] = bytes(8)  # the checksum, of device numbers that tarfile leaves empty
    theirs[329:345] = ours[329:345] = bytes(16)
    assert ours == theirs


@pytest.mark.root
def test_gnu_tar_unpacks_what_is_written(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    holes = tmp_path / "holes"
    with holes.open("wb") as file:
        file.write(b"start")
        file.seek(1 << 20)
        file.write(b"end")
    deep = b"/".join([b"deep" * 20] * 4)
    label = (("user.label", "größe".encode()),)
    entries = [
        TarEntry(b"deep" * 20, tar.DIRECTORY, mode=0o2750, uid=7, gid=8, mtime_ns=10**18),
        *(TarEntry(b"/".join([b"deep" * 20] * n), tar.DIRECTORY, mode=0o755) for n in (2, 3, 4)),
        TarEntry(deep + b"/file", mode=0o4711, uid=3_000_000, gid=9, size=4, data=b"data", mtime_ns=10**18),
        TarEntry(b"hard", tar.HARD_LINK, link=deep + b"/file"),
        TarEntry(b"soft", tar.SYMLINK, mode=0o777, link=b"x" * 300),
        TarEntry(b"labelled", size=1, data=b"x", xattrs=tuple((key.encode(), value) for key, value in label)),
        TarEntry(b"holes", size=holes.stat().st_size, open=partial(os.open, holes, os.O_RDONLY)),
    ]
    (tmp_path / "a.tar").write_bytes(archive(*entries))
    out = tmp_path / "out"
    out.mkdir()
    command = ["tar", "--xattrs", "--xattrs-include=*", "-xpf", tmp_path / "a.tar", "-C", out]
    subprocess.run(command, check=True)
    file, folder = os.stat(out / os.fsdecode(deep) / "file"), os.stat(out / ("deep" * 20))
    assert (file.st_mode & 0o7777, file.st_uid, file.st_gid, file.st_nlink) == (0o4711, 3_000_000, 9, 2)
    assert file.st_mtime == folder.st_mtime == 10**9
    assert (folder.st_mode & 0o7777, folder.st_uid, folder.st_gid) == (0o2750, 7, 8)
    assert (out / "hard").read_bytes() == b"data"
    assert os.readlink(out / "soft") == "x" * 300
    assert os.getxattr(out / "labelled", "user.label") == "größe".encode()
    assert (out / "holes").read_bytes() == holes.read_bytes()
