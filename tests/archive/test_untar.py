"""Archives of every kind are read, and broken ones are refused."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.archive import tar
from inlay.archive.tar import TarEntry, encode_header, write_entries
from inlay.archive.untar import TarReader
from inlay.errors import ContentError

if TYPE_CHECKING:
    from pathlib import Path

ONE_DATA_BLOCK = b"data" + bytes(508)


def header(
    name: bytes = b"f", *, kind: bytes = b"0", size: bytes = b"00000000004\0", **fields: bytes
) -> bytes:
    """A header block with any fields: `at_<offset>` puts bytes there; the checksum is set right."""
    block = bytearray(encode_header(TarEntry(name)))
    block[156:157] = kind
    block[124:136] = size
    for key, value in fields.items():
        at = int(key.removeprefix("at_"))
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def read(data: bytes) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(io.BytesIO(data))
    return [(entry, reader.read()) for entry in reader]


def extension(kind: bytes, body: bytes) -> bytes:
    return header(b"x", kind=kind, size=b"%011o\0" % len(body)) + body + bytes(-len(body) % 512)


def test_data_that_nobody_takes_is_skipped() -> None:
    data = header(b"a") + ONE_DATA_BLOCK + header(b"b") + ONE_DATA_BLOCK + bytes(1024)
    assert [entry.name for entry in TarReader(io.BytesIO(data))] == [b"a", b"b"]


def test_an_archive_may_end_without_zeros() -> None:
    assert read(header() + ONE_DATA_BLOCK)[0][1] == b"data"


@pytest.mark.parametrize("style", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, style: str) -> None:
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_bytes(b"x" * 1000)
    (tree / "link").symlink_to("folder/file")
    os.link(tree / "folder" / "file", tree / "other")
    if style in ("gnu", "pax", "oldgnu"):
        (tree / ("long" * 50)).write_text("long")
        (tree / "to-long").symlink_to("t" * 150)
    os.utime(tree / "folder" / "file", (1_600_000_000, 1_600_000_000))
    command = [
        "tar",
        f"--format={style}",
        "--sort=name",
        "-C",
        tree,
        "-cf",
        tmp_path / "a.tar",
        "folder",
        "other",
        "link",
    ]
    extra = ["to-long", "long" * 50] if style in ("gnu", "pax", "oldgnu") else []
    subprocess.run([*command, *extra], check=True)
    entries = {entry.name: (entry, data) for entry, data in read((tmp_path / "a.tar").read_bytes())}
    assert entries[b"folder"][0].kind == tar.DIRECTORY
    assert entries[b"folder/file"][1] == b"x" * 1000
    assert entries[b"folder/file"][0].mtime_ns == 1_600_000_000 * 10**9
    assert entries[b"other"][0].link == b"folder/file"
    assert entries[b"link"][0].link == b"folder/file"
    if extra:
        assert entries[b"long" * 50][1] == b"long"
        assert entries[b"to-long"][0].link == b"t" * 150


@pytest.mark.parametrize(
    "style", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"]
)
def test_sparse_files_of_gnu_tar_keep_their_holes(tmp_path: Path, style: str) -> None:
    size = 40 << 20
    with (tmp_path / "sparse").open("wb") as file:
        for offset in range(1 << 20, size, 1 << 20):
            file.seek(offset)
            file.write(b"segment %d" % offset)
        file.truncate(size)
    options = [style] if "format" in style else ["--format=pax", style]
    subprocess.run(["tar", *options, "-S", "-C", tmp_path, "-cf", tmp_path / "a.tar", "sparse"], check=True)
    assert (tmp_path / "a.tar").stat().st_size < 1 << 20
    with (tmp_path / "a.tar").open("rb", buffering=0) as source:
        reader = TarReader(source, buffer_size=4096)
        (entry,) = [entry for entry in reader if copy(reader, tmp_path / "out")]
    assert (entry.name, entry.size) == (b"sparse", size)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "sparse").read_bytes()
    assert (tmp_path / "out").stat().st_blocks * 512 < 1 << 20


def copy(reader: TarReader, path: Path) -> bool:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    reader.copy_to(fd)
    os.close(fd)
    return True


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes_is_read(style: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as archive:
        member = tarfile.TarInfo("dir/" + "n" * 90)
        member.size, member.mtime, member.uid = 3, 1_500_000_000, 77
        archive.addfile(member, io.BytesIO(b"abc"))
    ((entry, data),) = read(out.getvalue())
    assert (entry.name, entry.uid, entry.mtime_ns, data) == (
        b"dir/" + b"n" * 90,
        77,
        1_500_000_000 * 10**9,
        b"abc",
    )


def test_pax_records_override_the_header() -> None:
    body = b"".join(
        b"%d %s\n" % (len(record) + 4, record)
        for record in (b"mtime=1.25", b"uid=300000", b"path=\xff/name", b"SCHILY.xattr.user.a=\0b")
    )
    ((entry, data),) = read(extension(b"x", body) + header() + ONE_DATA_BLOCK)
    assert entry.name == b"\xff/name"
    assert entry.mtime_ns == 1_250_000_000
    assert entry.uid == 300_000
    assert entry.xattrs == ((b"user.a", b"\0b"),)
    assert data == b"data"


def test_pax_records_hold_for_one_entry_only() -> None:
    data = extension(b"x", b"12 path=one\n")
    names = [
        entry.name for entry, _ in read(data + header() + ONE_DATA_BLOCK + header(b"two") + ONE_DATA_BLOCK)
    ]
    assert names == [b"one", b"two"]


def test_global_headers_change_nothing_as_in_go() -> None:
    data = extension(b"g", b"21 comment=some-hash\n") + header() + ONE_DATA_BLOCK
    assert [entry.name for entry, _ in read(data)] == [b"f"]


def test_numbers_are_also_read_in_base_256() -> None:
    uid = b"\x80" + (1 << 40).to_bytes(7, "big")
    mtime = b"\xff" * 11 + b"\xfe"
    ((entry, _),) = read(header(at_108=uid, at_136=mtime) + ONE_DATA_BLOCK)
    assert entry.uid == 1 << 40
    assert entry.mtime_ns == -2 * 10**9


def test_old_v7_folders_are_files_with_a_slash() -> None:
    ((entry, _),) = read(header(b"folder/", kind=b"\0", size=b"00000000000\0"))
    assert (entry.name, entry.kind) == (b"folder", tar.DIRECTORY)


def test_entries_without_data_have_none_whatever_their_size_says() -> None:
    data = header(b"link", kind=b"1", at_157=b"f") + header(b"f") + ONE_DATA_BLOCK
    assert [(entry.name, entry.size) for entry, _ in read(data)] == [(b"link", 0), (b"f", 4)]


def test_signed_checksums_of_old_suns() -> None:
    block = bytearray(header(at_0=b"\xe9"))
    total = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * 32
    block[148:156] = b"%06o\0 " % total
    assert read(bytes(block) + ONE_DATA_BLOCK)[0][0].name == b"\xe9"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a tar archive at all".ljust(512), "checksum"),
        (header()[:300], "inside a header"),
        (header() + b"da", "inside a file"),
        (header(size=b"99999999999\0"), "not an octal"),
        (header(size=b"0x000000004\0"), "not a number"),
        (header(size=b"\xff" + bytes(11)), "cannot have"),
        (bytes(512) + header(), "lone block"),
        (extension(b"x", b"99 path=a\n") + header(), "length"),
        (extension(b"x", b"path=a\n") + header(), "length|number"),
        (extension(b"x", b"10 path=\0\n") + header(), "NUL"),
        (extension(b"x", b"15 size=99999x\n") + header(), "not a number"),
        (extension(b"x", b"11 size=-1\n") + header(), "cannot have"),
        (header(b"x", kind=b"x", size=b"77777777777\0"), "extension header"),
        (extension(b"x", b"22 GNU.sparse.major=1\n") + header() + b"9\n" + bytes(510), "map|size"),
        (
            header(kind=b"S", at_386=b"00000000000\0" + b"77777777777\0", at_483=b"00000000004\0"),
            "contradicts",
        ),
    ],
)
def test_broken_archives_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        read(data)


@given(st.binary(max_size=1500))
def test_noise_is_never_worse_than_refused(noise: bytes) -> None:
    try:
        read(noise)
    except ContentError:
        pass


@given(st.data())
def test_damaged_archives_are_never_worse_than_refused(data: st.DataObject) -> None:
    out = io.BytesIO()
    write_entries([TarEntry(b"n" * 150, xattrs=((b"user.a", b"b"),)), TarEntry(b"d", tar.DIRECTORY)], out)
    damaged = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(damaged))
    except ContentError:
        pass


@given(st.integers(1, 700))
def test_short_reads_of_the_source_do_not_matter(step: int) -> None:
    class Dripping(io.BytesIO):
        def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
            return super().readinto(memoryview(buffer)[:step])

    data = (
        extension(b"x", b"12 path=one\n")
        + header()
        + ONE_DATA_BLOCK
        + header(b"b")
        + ONE_DATA_BLOCK
        + bytes(1024)
    )
    reader = TarReader(Dripping(data), buffer_size=512)
    assert [(entry.name, reader.read()) for entry in reader] == [(b"one", b"data"), (b"b", b"data")]
