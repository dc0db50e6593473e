"""The trees of a recorded case, laid out to be read: contexts, base images, and what its steps made.

Which layers a step's result has is told by its record in the recorded cache. Where records are too much
alike to tell whose is whose, a tree is made by doing the file operation, or done without.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from inlay import tasks
from inlay.actions.files.op import chain, perform, read_by
from inlay.actions.files.writing import WritableTree
from inlay.content.store import VerifyingReader
from inlay.digest import Digest
from inlay.llb.ops import EMPTY, FileOp, SourceOp
from inlay.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from inlay.refs.ref import Ref
from inlay.refs.store import RefStore
from inlay.solver.keys import CONTENT, output_key
from inlay.sources.local import LocalContext
from inlay.store.store import Store
from inlay.trees.contenthash import content_digest
from inlay.trees.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inlay.llb.keys import ContentSelector
    from llb_decode import RawOp

Vertex = dict[str, Any]

_GIT_UMASK = 0o022


class _Blobs:
    """The blobs of a case and of the base images, by digest."""

    def __init__(self, case: Path) -> None:
        self._paths = {path.name.replace("-", ":"): path for path in (case / "layers").glob("sha256-*")}
        self._paths |= {f"sha256:{path.name}": path for path in case.parent.glob("_base/*/blobs/sha256/*")}

    def descriptor(self, digest: str) -> Descriptor | None:
        path = self._paths.get(digest)
        return Descriptor(OCI_LAYER_GZIP, Digest(digest), path.stat().st_size) if path else None

    def has_blob(self, descriptor: Descriptor) -> bool:
        return str(descriptor.digest) in self._paths

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        stream = self._paths[str(descriptor.digest)].open("rb")
        stream.seek(offset)
        return cast("BinaryIO", VerifyingReader(stream, descriptor)) if verify and not offset else stream

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        return self._paths[str(descriptor.digest)].read_bytes()


class _Source(NamedTuple):
    location: str
    blobs: _Blobs
    images: Any = None


class CaseTrees:
    """Opens trees by the digest of the op that gave them. Use it in a `with` block, as root."""

    def __init__(self, case: Path, work: str, vertices: Sequence[Vertex], ops: dict[str, RawOp]) -> None:
        self._case, self._work = case, Path(work)
        self._vertices = {vertex["vertex"]: vertex for vertex in vertices}
        self._ops = ops
        self._blobs = _Blobs(case)
        self._store = Store(f"{work}/store", warn=print)
        source = _Source("case", self._blobs)
        self._refs = RefStore(
            self._store.layers, self._store.content, self._store.snapshotter, lambda location: source
        )
        self._source = source
        self._folders: dict[str, Path] = {}
        config = json.loads((case / "cacheconfig.json").read_text())["max"]
        recorded = json.loads(config["config_raw"]) if config else {}
        self._layers: list[dict[str, Any]] = recorded.get("layers") or []
        self._records: list[dict[str, Any]] = recorded.get("records") or []
        self._matches: dict[str, set[int]] = {}

    def __enter__(self) -> CaseTrees:
        return self

    def __exit__(self, *_: object) -> None:
        self._refs.close()
        self._store.close()

    def content_digest(self, vertex: str, selectors: Sequence[ContentSelector]) -> str | None:
        """Digest what `selectors` choose of what `vertex` gave; None where the case has not its tree."""

        async def digest() -> str | None:
            tree = await self._open(vertex)
            return str(content_digest(tree, selectors)) if tree is not None else None

        return tasks.run(digest())

    async def _open(self, vertex: str) -> Tree | None:
        return self._context(vertex) or self._download(vertex) or await self._result(vertex)

    # -- sources ---------------------------------------------------------------------------------------

    def _context(self, vertex: str) -> Tree | None:
        raw = self._ops.get(vertex)
        if raw is None or not isinstance(raw.op, SourceOp) or raw.op.scheme != "local":
            return None
        name, op = raw.op.identifier.partition("://")[2], raw.op
        archive = "context.tar" if name == "context" else f"ctx-{name}.tar"
        follow = op.attr("local.followpaths")
        return LocalContext(
            str(self._unpacked(archive)),
            exclude_patterns=json.loads(op.attr("local.excludepatterns") or "[]"),
            include_patterns=json.loads(op.attr("local.includepattern") or "[]"),
            follow_paths=json.loads(follow) if follow else None,
        )

    def _unpacked(self, archive: str, umask: int = 0) -> Path:
        if archive not in self._folders:
            folder = self._folders[archive] = self._work / archive.removesuffix(".tar")
            with tarfile.open(self._case / archive) as tar:
                _unpack(tar, folder, umask)
            if archive == "context.tar":
                build = json.loads((self._case / "build.json").read_text())
                for each in build.get("sockets_not_in_tar") or ():
                    _make_socket(folder / each["path"], int(each["mode"], 8))
        return self._folders[archive]

    def _download(self, vertex: str) -> Tree | None:
        facts = self._vertices.get(vertex, {})
        folder = self._work / f"download-{vertex[7:19]}"
        if "git" in facts and "contentTar" in facts["git"]:
            return Tree.at(str(self._unpacked(facts["git"]["contentTar"], _GIT_UMASK)))
        if "http" not in facts:
            return None
        if not folder.exists():
            folder.mkdir(mode=0o755)
            file = folder / facts["http"]["filename"]
            file.write_bytes(base64.b64decode(facts["http"]["content"]))
            file.chmod(facts["http"]["perm"] or 0o600)
            os.chown(file, facts["http"]["uid"], facts["http"]["gid"])
        return Tree.at(str(folder))

    # -- images and steps ------------------------------------------------------------------------------

    async def _result(self, vertex: str) -> Tree | None:
        ref = self._image(vertex) or self._recorded(vertex)
        if ref is not None:
            return await self._refs.mounted.tree(ref)
        folder = await self._made(vertex)
        return Tree.at(str(folder)) if folder is not None else None

    def _ref(self, digests: Sequence[str]) -> Ref | None:
        blobs = [self._blobs.descriptor(digest) for digest in digests]
        if not blobs or None in blobs:
            return None
        return Ref(tuple(self._refs.add_blob(blob, None, self._source) for blob in blobs if blob))

    def _image(self, vertex: str) -> Ref | None:
        raw = self._ops.get(vertex)
        if raw is None or not isinstance(raw.op, SourceOp):
            return None
        from vectors.cache_keys import image_of

        image = image_of(json.loads((self._case / "images.json").read_text()), raw)
        return self._ref([layer["digest"] for layer in image["manifest"]["layers"]]) if image else None

    def _recorded(self, vertex: str) -> Ref | None:
        chains = {
            tuple(self._chain(result["layer"]))
            for number in self._matching(vertex)
            for result in self._records[number].get("layers") or ()
        }
        return self._ref(chains.pop()) if len(chains) == 1 else None

    def _matching(self, vertex: str) -> set[int]:
        """The records that `vertex` can have: its digest, on records that its inputs can have."""
        if vertex not in self._matches:
            facts = self._vertices.get(vertex, {"records": (), "deps": ()})
            self._matches[vertex] = {
                number
                for number, record in enumerate(self._records)
                if record["digest"] in facts["records"] and self._fits(record, facts["deps"])
            }
        return self._matches[vertex]

    def _fits(self, record: dict[str, Any], deps: Sequence[dict[str, Any]]) -> bool:
        inputs = record.get("inputs") or ()
        if len(inputs) != len(deps):
            return False
        for links, dep in zip(inputs, deps, strict=True):
            below = self._matching(dep["input"])
            content = output_key(dep["contentDigest"], CONTENT) if dep.get("contentDigest") else None
            found = {link["link"] for link in links}
            if not found & below and content not in {self._records[link]["digest"] for link in found}:
                return False
        return True

    def _chain(self, layer: int) -> Iterator[str]:
        parent = self._layers[layer].get("parent", 0)
        if parent >= 0:
            yield from self._chain(parent)
        yield self._layers[layer]["blob"]

    async def _made(self, vertex: str) -> Path | None:
        """Do a file operation; None for what is none, and where its inputs are not to be had."""
        raw = self._ops.get(vertex)
        if raw is None or not isinstance(raw.op, FileOp):
            return None
        first, actions = chain(raw.op, len(raw.inputs))
        read = {index for action in actions for index in read_by(action, len(raw.inputs))}
        inputs = [str(each.digest) for each in raw.inputs]
        trees = {n: await self._open(inputs[n]) for n in read}
        base = None if first == EMPTY else await self._result(inputs[first])
        if None in trees.values() or (first != EMPTY and base is None):
            return None
        target = self._work / f"made-{vertex[7:19]}"
        if not target.exists():
            target.mkdir()
            if base is not None:
                with base.root() as root:
                    _copy_all(f"/proc/self/fd/{root.fd}", target)
            with WritableTree.at(str(target)) as changed:
                perform(actions, trees, changed)
        return target


def _copy_all(source: str, target: Path) -> None:
    import subprocess

    subprocess.run(
        ["cp", "-a", f"{source}/.", str(target)], check=True, pass_fds=[int(source.rpartition("/")[2])]
    )


def _make_socket(path: Path, mode: int) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    path.chmod(mode)


def _as_it_is(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
    return member


def _unpack(tar: tarfile.TarFile, folder: Path, umask: int) -> None:
    """Everything as it is in the archive: owners, devices, extended attributes."""
    folder.mkdir()
    tar.extraction_filter = _as_it_is  # an argument `filter` is new in 3.11.4
    for member in tar:
        member.mode &= ~umask
        tar.extract(member, folder, numeric_owner=True)
        path = folder / member.name
        for name, value in member.pax_headers.items():
            if name.startswith("SCHILY.xattr."):
                os.setxattr(path, name[13:], os.fsencode(value), follow_symlinks=False)
    for member in tar:
        if member.isdir():
            os.utime(folder / member.name, (member.mtime, member.mtime))


__all__ = ["CaseTrees"]
