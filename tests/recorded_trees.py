"""Trees and contexts of real BuildKit builds, laid out in folders. See tests/vectors/cache/README.md."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from inlay.actions.files.op import chain, perform, read_by
from inlay.actions.files.writing import WritableTree
from inlay.llb.ops import EMPTY, FileOp
from inlay.sources.local import LocalContext
from inlay.trees.tree import Tree
from llb_decode import decode_op

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: devices and foreign owners")


class FileVertex(NamedTuple):
    digest: str
    name: str
    op: FileOp
    inputs: list[str]


@cache
def _members() -> dict[str, bytes]:
    with tarfile.open(Path(__file__).parent / "vectors/cache/trees.tar.xz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


@cache
def all_cases() -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = json.loads(_members()["cases.json"])
    return cases


class RecordedCase:
    """One build, its trees laid out below `work`."""

    def __init__(self, name: str, work: Path) -> None:
        self.name = name
        self.facts = all_cases()[name]
        self.files = {vertex.digest: vertex for vertex in map(_vertex, self.facts["file_ops"])}
        self._work = work
        self._folders: dict[str, Path] = {}

    def open(self, digest: str) -> Tree | None:
        """The tree that an op gave, to read; None where it was not recorded."""
        context = self.facts["contexts"].get(digest)
        if context is not None:
            return LocalContext(
                str(self._context(context["name"])),
                exclude_patterns=context["exclude"],
                follow_paths=context["follow"],
            )
        folder = self.folder(digest)
        return None if folder is None else Tree.at(str(folder))

    def folder(self, digest: str) -> Path | None:
        """What an op gave: as recorded or, where that is not plain, made by ourselves."""
        chains = self.results(digest)
        if len(chains) == 1:
            return chains[0]
        return self.make(digest) if digest in self.files else None

    def results(self, digest: str) -> list[Path]:
        return [self._layers(tuple(chain)) for chain in self.facts["results"].get(digest, ())]

    def make(self, digest: str) -> Path | None:
        """Do the file op `digest`; None where its inputs were not recorded."""
        vertex = self.files[digest]
        first, actions = chain(vertex.op, len(vertex.inputs))
        read = {index for action in actions for index in read_by(action, len(vertex.inputs))}
        trees = {index: self.open(vertex.inputs[index]) for index in read}
        base = None if first == EMPTY else self.folder(vertex.inputs[first])
        if None in trees.values() or (first != EMPTY and base is None):
            return None
        target = self._work / f"made-{digest[7:19]}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        if base is not None:
            subprocess.run(["cp", "-a", f"{base}/.", str(target)], check=True)
        with WritableTree.at(str(target)) as changed:
            perform(actions, trees, changed)
        return target

    def _layers(self, chain: tuple[str, ...]) -> Path:
        name = "+".join(digest[7:15] for digest in chain)
        if name not in self._folders:
            self._folders[name] = folder = self._work / f"layers-{len(self._folders)}"
            folder.mkdir()
            for digest in chain:
                unpack_layer(_members()[f"layers/{digest[7:]}.tar"], folder)
        return self._folders[name]

    def _context(self, name: str) -> Path:
        if name not in self._folders:
            self._folders[name] = folder = self._work / f"context-{name}"
            folder.mkdir()
            unpack_layer(_members()[f"contexts/{self.name}/{name}.tar"], folder)
            for path in self.facts["sockets"]:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.bind(str(folder / path))
                (folder / path).chmod(0o755)
        return self._folders[name]


def _vertex(facts: dict[str, str]) -> FileVertex:
    raw = decode_op(base64.b64decode(facts["raw"]))
    assert isinstance(raw.op, FileOp)
    return FileVertex(facts["digest"], facts["name"], raw.op, [str(item.digest) for item in raw.inputs])


def unpack_layer(data: bytes, root: Path) -> None:
    """Apply an uncompressed layer, in the plainest way there is."""
    folders = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = root / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name.startswith(".wh."):
                _remove(path.parent / path.name[4:])
                continue
            if not (member.isdir() and path.is_dir() and not path.is_symlink()):
                _remove(path)
                _make(archive, member, path, root)
            if member.islnk():
                continue
            os.chown(path, member.uid, member.gid, follow_symlinks=False)
            if not member.issym():
                path.chmod(member.mode & 0o7777)
            for key, value in member.pax_headers.items():
                if key.startswith("SCHILY.xattr."):
                    os.setxattr(path, key[13:], os.fsencode(value), follow_symlinks=False)
            os.utime(path, ns=(int(member.mtime * 1e9),) * 2, follow_symlinks=False)
            if member.isdir():
                folders.append((path, int(member.mtime * 1e9)))
    for path, mtime in folders:
        os.utime(path, ns=(mtime, mtime))


def _make(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, root: Path) -> None:
    if member.isdir():
        path.mkdir()
    elif member.isreg():
        path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
    elif member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        path.hardlink_to(root / member.linkname)
    else:
        kind = stat.S_IFIFO if member.isfifo() else stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def describe_tree(root: str | Path) -> tuple[dict[str, tuple[object, ...]], list[list[str]]]:
    """All that a layer keeps of a tree, but times: objects by path, and which files are one."""
    objects: dict[str, tuple[object, ...]] = {}
    names: dict[int, list[str]] = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            at = os.path.relpath(path, root)
            facts = os.lstat(path)
            objects[at] = (oct(facts.st_mode), facts.st_uid, facts.st_gid, *_content(path, facts))
            if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
                names.setdefault(facts.st_ino, []).append(at)
    return objects, sorted(map(sorted, names.values()))


def _content(path: str, facts: os.stat_result) -> list[object]:
    content: list[object] = []
    if stat.S_ISREG(facts.st_mode):
        content.append(Path(path).read_bytes())
    elif stat.S_ISLNK(facts.st_mode):
        content.append(os.readlink(path))
    elif not stat.S_ISDIR(facts.st_mode):
        content.append(facts.st_rdev)
    if "security.capability" in os.listxattr(path, follow_symlinks=False):
        content.append(os.getxattr(path, "security.capability", follow_symlinks=False))
    return content
