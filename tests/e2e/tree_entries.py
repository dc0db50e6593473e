"""File trees as values, to compare: those on disk, and those in tars."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """What a file is, but for its name: `content` is a digest, a link's target or a device's numbers."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str
    mtime: int
    links: frozenset[str]
    """All names of the file, when it has more than one; folders have none."""


def tree_on_disk(root: Path) -> dict[str, Entry]:
    """Each file below `root`, by its path without a leading slash."""
    found = {}
    names: dict[tuple[int, int], set[str]] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            relative = os.path.relpath(path, root)
            found[relative] = (path, info)
            if not stat.S_ISDIR(info.st_mode):
                names.setdefault((info.st_dev, info.st_ino), set()).add(relative)
    return {
        relative: _entry_on_disk(path, info, names.get((info.st_dev, info.st_ino), set()))
        for relative, (path, info) in found.items()
    }


def _entry_on_disk(path: str, info: os.stat_result, names: set[str]) -> Entry:
    content = ""
    if stat.S_ISREG(info.st_mode):
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    elif stat.S_ISLNK(info.st_mode):
        content = os.readlink(path)
    elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        content = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    links = frozenset(names) if len(names) > 1 else frozenset[str]()
    owner = info.st_uid, info.st_gid
    kind = stat.filemode(info.st_mode)[0]
    return Entry(kind, stat.S_IMODE(info.st_mode), owner, content, int(info.st_mtime), links)


_KINDS = {
    tarfile.REGTYPE: "-",
    tarfile.DIRTYPE: "d",
    tarfile.SYMTYPE: "l",
    tarfile.CHRTYPE: "c",
    tarfile.BLKTYPE: "b",
    tarfile.FIFOTYPE: "p",
}


def tree_in_tar(path: Path) -> dict[str, Entry]:
    """Each member of a tar as `tree_on_disk` would show it once unpacked."""
    found: dict[str, Entry] = {}
    names: dict[str, set[str]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = os.path.normpath(member.name)
            if member.islnk():
                target = os.path.normpath(member.linkname)
                names.setdefault(target, {target}).add(name)
            elif name != ".":
                found[name] = _entry_in_tar(tar, member)
    for first, group in names.items():
        linked = found[first]._replace(links=frozenset(group))
        found.update(dict.fromkeys(group, linked))
    return found


def _entry_in_tar(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    content = ""
    if member.isreg():
        data = tar.extractfile(member)
        assert data is not None
        content = hashlib.sha256(data.read()).hexdigest()
    elif member.issym():
        content = member.linkname
    elif member.ischr() or member.isblk():
        content = f"{member.devmajor}:{member.devminor}"
    owner = member.uid, member.gid
    return Entry(_KINDS[member.type], member.mode, owner, content, int(member.mtime), frozenset())
