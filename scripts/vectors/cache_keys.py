"""Check recorded ops of BuildKit: what each is keyed by, and what it looked at of its inputs.

Beside what `cache_cases` reads, a case's folder has `images.json` (what each image was), the contexts as
`context.tar` and `ctx-NAME.tar`, and `layers/`, the blobs that the build made; `../_base` has layouts of the
base images. Content digests are taken of the trees that these give: laying them out needs root.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

from inlay.digest import Digest
from inlay.llb import keys, source_keys
from inlay.llb.ops import SourceOp
from inlay.oci.image import chain_id
from inlay.platform import host, normalise
from llb_decode import decode_op

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llb_decode import RawOp
    from vectors import Pair

Vertex = dict[str, Any]

_OPTIONS = ("include", "exclude", "required")


def folder(path: Path) -> Iterator[tuple[str, Pair]]:
    """The kind of a case's folder: a pair for each op, and one for each content digest."""
    llb = json.loads((path / "llb.json").read_text())
    ops = {op["digest"]: decode_op(base64.b64decode(op["raw"])) for op in llb["ops"]}
    vertices = json.loads((path / "keys.json").read_text())
    images = json.loads((path / "images.json").read_text())
    for vertex in vertices:
        actual = _source_key(vertex, ops, images) if not vertex["deps"] else _op_key(vertex, ops)
        yield f"{path.name} {vertex['name']}", (_recorded_key(vertex), actual)
    yield from _contents(path, vertices, ops)


def _recorded_key(vertex: Vertex) -> dict[str, Any]:
    deps = [(dep["selector"], _content_selectors(dep)) for dep in vertex["deps"]]
    return {"digests": vertex["cacheMapDigests"], "pre-image": vertex.get("preimage", ""), "deps": deps}


def _content_selectors(dep: dict[str, Any]) -> list[tuple[Any, ...]] | None:
    if "contentSelectors" not in dep:
        return None
    return [
        (
            each["path"],
            each.get("follow", False),
            each.get("wildcard", False),
            *(tuple(each.get(name) or ()) for name in _OPTIONS),
        )
        for each in dep["contentSelectors"]
    ] or [tuple(keys.WHOLE_TREE[0])]


def _op_key(vertex: Vertex, ops: dict[str, RawOp]) -> dict[str, Any]:
    inputs, op, platform = ops[vertex["vertex"]]
    assert op is not None
    platform = normalise(platform) if platform else host()
    key = keys.cache_map(op, platform, len(inputs))
    return {
        "digests": [str(key.digest)],
        "pre-image": keys.pre_image(op, platform, len(inputs)),
        "deps": [
            (str(dep.selector), None if dep.content is None else [tuple(each) for each in dep.content])
            for dep in key.inputs
        ],
    }


def _source_key(vertex: Vertex, ops: dict[str, RawOp], images: list[dict[str, Any]]) -> dict[str, Any]:
    """A source's digests, from what it was found to be; those of a local folder mean nothing."""
    raw = ops.get(vertex["vertex"])
    texts: list[str] = []
    if raw is None or not isinstance(raw.op, SourceOp):
        # An op that only passes something on, or was made by the daemon itself.
        return _op_key(vertex, ops) if raw is not None else _recorded_key(vertex)
    if raw.op.identifier.startswith("local://"):
        return _recorded_key(vertex)
    if "git" in vertex:
        texts = [_git_key(vertex["git"], raw.op)]
    elif "http" in vertex:
        texts = [_http_key(vertex["http"])]
    elif (image := image_of(images, raw)) is not None:
        assert raw.platform is not None
        ids = [Digest(each) for each in image["config"].get("rootfs", {}).get("diff_ids") or ()]
        texts = list(
            source_keys.image_keys(
                Digest(image["resolvedDigest"]), normalise(raw.platform), chain_id(ids) if ids else ""
            )
        )
    digests = [str(source_keys.source_digest(text)) for text in texts]
    # BuildKit asks for the second key only where it has a use for it.
    return {"digests": digests[: len(vertex["cacheMapDigests"])], "pre-image": "", "deps": []}


def image_of(images: list[dict[str, Any]], raw: RawOp) -> dict[str, Any] | None:
    """What is known of the image that `raw` names, for its platform."""
    assert isinstance(raw.op, SourceOp)
    for image in images:
        platform = image.get("platform") or {}
        if image["identifier"] == raw.op.identifier and (
            raw.platform is None
            or (platform.get("Architecture"), platform.get("Variant", ""))
            == (raw.platform.architecture, raw.platform.variant)
        ):
            return image
    return None


def _git_key(found: dict[str, Any], op: SourceOp) -> str:
    return source_keys.git_key(
        found["sha"],
        found["ref"],
        subdir=found["subdir"],
        keep_git_dir=found["keepGitDir"],
        skip_submodules=op.attr("git.skipsubmodules") == "true",
        mtime=op.attr("git.mtime"),
        bundle=bool(op.attr("git.checkoutbundle")),
    )


def _http_key(found: dict[str, Any]) -> str:
    return source_keys.http_key(
        found["filename"],
        Digest(found["checksum"]),
        last_modified=found["lastModifiedUsed"] or "",
        perm=found["perm"],
        uid=found["uid"],
        gid=found["gid"],
    )


def _contents(path: Path, vertices: list[Vertex], ops: dict[str, RawOp]) -> Iterator[tuple[str, Pair]]:
    """Content digests of all inputs whose trees the case brings."""
    hashed = [(vertex, dep) for vertex in vertices for dep in vertex["deps"] if dep.get("contentDigest")]
    if not hashed or os.geteuid() != 0 or not (path / "context.tar").exists():
        return
    from vectors.cache_trees import CaseTrees

    with (
        tempfile.TemporaryDirectory(prefix="inlay-case-") as work,
        CaseTrees(path, work, vertices, ops) as trees,
    ):
        for vertex, dep in hashed:
            selectors = [keys.ContentSelector(*each) for each in _content_selectors(dep) or ()]
            digest = trees.content_digest(dep["input"], selectors)
            if digest is not None:
                yield f"{path.name} {vertex['name']}, content", (dep["contentDigest"], digest)
