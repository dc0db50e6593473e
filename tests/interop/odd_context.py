"""A build context full of what file systems and archives can hold, and Dockerfiles that copy it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import stat
import subprocess
import tarfile
from pathlib import Path

_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
_XATTRS = {"user.z": "1", "security.capability": _CAPABILITY.decode()}
_OLD_S = 1_400_000_000
_LINKS = {
    "rel": "d/a", "abs": "/d/a", "dangling": "nowhere", "loop": "loop", "up": "../../../etc/passwd", "dirl": "d",
    "absd": "/d", "chain": "rel", "self": ".", "d/parent": "..", "d/sibling": "sub/b",
}  # fmt: skip


def make_context(root: Path) -> None:
    """Fill `root`. Needs root, for devices and trusted attributes."""
    _write(root / "f", b"hello\n", 0o640)
    os.chown(root / "f", 1234, 5678)
    os.utime(root / "f", (_OLD_S, _OLD_S))
    for name, mode in (("suid", 0o4755), ("sgid", 0o2755), ("st", 0o1644), ("none", 0)):
        _write(root / name, b"s", mode)
    for number, name in enumerate(
        ("a", "sub/b", "sub/deep/c", "sp ace", "new\nline", "-dash", "star*", "[br]", "ünï", "n" * 255)
    ):
        _write(root / "d" / name, b"%d" % number)
    with open(bytes(root / "d") + b"/caf\xe9", "wb") as out:
        out.write(b"latin-1")
    (root / "d/empty").mkdir(0o700)
    (root / "d/sub").chmod(0o2775)
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    _write(root / "h1", b"several names")
    for name in ("h2", "d/h3"):
        (root / name).hardlink_to(root / "h1")
    _make_special(root)
    for name in (".hidden", ".wh.f", "wh/.wh..wh..opq", "wh/x", "deep/" + "p/" * 30 + "leaf"):
        _write(root / name, name.encode())
    for name in ("a1.txt", "a10.txt", "a11.txt", "b1.md", "x/a.txt", "y/z/a.txt", ".dot.txt"):
        _write(root / "glob" / name, name.encode())
    for name, data in _archives(root).items():
        _write(root / name, data)


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def _make_special(root: Path) -> None:
    _write(root / "xa", b"attributes")
    (root / "xd").mkdir()
    _write(root / "xd/inside", b"")
    for name, key, value in (
        ("xa", "user.foo", b"bar"), ("xa", "trusted.t", b"q"), ("xa", "security.capability", _CAPABILITY),
        ("xd", "user.dir", b"1"),
    ):  # fmt: skip
        os.setxattr(root / name, key, value)
    with open(root / "sparse", "wb") as out:
        out.seek(1 << 20)
        out.write(b"end")
        out.truncate(3 << 20)
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "cdev", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "bdev", stat.S_IFBLK | 0o660, os.makedev(7, 5))
    with socket.socket(socket.AF_UNIX) as sock:
        at = os.open(root, os.O_PATH)
        sock.bind(f"/proc/self/fd/{at}/sock")
        os.close(at)


_DIR, _SYM, _LNK, _FIFO = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE
_BASIC = (
    {"name": "./", "type": _DIR, "mode": 0o711, "uid": 5, "gid": 6, "mtime": 1_300_000_000},
    {"name": "./r", "type": _DIR, "mode": 0o750},
    {"name": "./r/f"},
    {"name": "r/s", "type": _SYM, "linkname": "f", "mode": 0o777},
    {"name": "r/h", "type": _LNK, "linkname": "r/f"},
    {"name": "r/su", "mode": 0o6755},
    {"name": "imp/lied/f"},
    {"name": "ff", "type": _FIFO},
    {"name": "c", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5, "mode": 0o600},
    {"name": "b", "type": tarfile.BLKTYPE, "devmajor": 7, "devminor": 1, "mode": 0o600},
    {"name": "abs/l", "type": _SYM, "linkname": "/etc/passwd", "mode": 0o777},
    {"name": "xat", "pax_headers": {f"SCHILY.xattr.{name}": text for name, text in _XATTRS.items()}},
    {"name": "t", "mtime": 1234567890.987654},
    {"name": "old", "mtime": -1000},
    {"name": "é"},
    {"name": "x" * 200 + "/" + "y" * 200},
)  # fmt: skip
_MORE = {
    "whiteouts.tar": ("a/f", "a/.wh.f", "a/.wh..wh..opq", ".wh.bin"),
    "dots.tar": ("a/../b", "/abs", "a/./c", "a//d"),
    "empty.tar": (),
}


def _archives(root: Path) -> dict[str, bytes]:
    basic = _tar(*_BASIC)
    made = {
        "basic.tar": basic,
        "basic.tar.gz": gzip.compress(basic),
        "basic.tar.bz2": bz2.compress(basic),
        "basic.tar.xz": lzma.compress(basic),
        "basic.tar.zst": subprocess.run(
            ["zstd", "-q", "-c"], input=basic, capture_output=True, check=True
        ).stdout,
        "noext": gzip.compress(basic),
        "gnu.tar": _tar(
            {"name": "g" * 150 + "/f"},
            {"name": "l", "type": _SYM, "linkname": "k" * 150},
            style=tarfile.GNU_FORMAT,
        ),
        "ustar.tar": _tar({"name": "u/f"}, {"name": "u/g"}, style=tarfile.USTAR_FORMAT),
        "over.tar": _tar({"name": "tgt", "type": _DIR, "mode": 0o700, "uid": 9, "gid": 9}, {"name": "tgt/f"}),
        "link-over.tar": _tar(
            {"name": "tgt", "type": _SYM, "linkname": "/tmp", "mode": 0o777}, {"name": "q"}
        ),
        "only-dir.tar": _tar({"name": "q", "type": _DIR, "mode": 0o1777}),
        "through.tar": _tar(
            {"name": "d", "type": _DIR, "mode": 0o755},
            {"name": "s", "type": _SYM, "linkname": "d", "mode": 0o777},
            {"name": "s/new/f"},
        ),
        "nowhere.tar": _tar({"name": "s", "type": _SYM, "linkname": "../x", "mode": 0o777}, {"name": "s/f"}),
        "names.tar": _tar({"name": "h1"}, {"name": "h2", "type": _LNK, "linkname": "h1"}),
        "zero.tar": b"",
        "text.tar": b"not a tar\n",
        "text.gz": gzip.compress(b"just text\n"),
        "cut.tar.gz": gzip.compress(basic)[:300],
    }
    return made | {name: _tar(*({"name": each} for each in names)) for name, names in _MORE.items()}


def _tar(*members: dict[str, object], style: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=style) as archive:
        for facts in members:
            member = tarfile.TarInfo()
            for key, value in {
                "mtime": _OLD_S,
                "uid": 11,
                "gid": 12,
                "uname": "nm",
                "gname": "gn",
                **facts,
            }.items():
                setattr(member, key, value)
            member.size = 4 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"data") if member.isreg() else None)
    return data.getvalue()


def read_cases() -> dict[str, str]:
    """The Dockerfiles beside this file, by what is odd about them; @BASE@ in them is a base image."""
    text = (Path(__file__).parent / "odd.dockerfiles").read_text()
    sections = (section.partition("\n") for section in text.split("#= ")[1:])
    return {name: dockerfile.rstrip("\n") + "\n" for name, _, dockerfile in sections}
