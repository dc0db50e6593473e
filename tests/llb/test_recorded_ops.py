"""BuildKit's own ops, read, written and keyed again."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from inlay.digest import Digest
from inlay.llb import keys, source_keys
from inlay.llb.graph import Edge, Vertex, define
from inlay.llb.ops import SourceOp
from inlay.llb.wire import encode_op
from inlay.oci.image import chain_id
from llb_decode import decode_op

VECTORS = Path(__file__).parents[1] / "vectors/llb/ops.jsonl.gz"
RECORDS: list[dict[str, Any]] = [
    json.loads(line) for line in gzip.decompress(VECTORS.read_bytes()).splitlines()
]


def raw(record: dict[str, Any]) -> bytes:
    return base64.b64decode(record["raw"])


def test_every_op_is_written_as_it_was_read() -> None:
    for record in RECORDS:
        inputs, op, platform = decode_op(raw(record))
        assert encode_op(inputs, op, platform) == raw(record)
        assert Digest.of(raw(record)) == record["digest"]


def recorded_selectors(dep: dict[str, Any]) -> tuple[keys.ContentSelector, ...] | None:
    if "contentSelectors" not in dep:
        return None
    selectors = tuple(
        keys.ContentSelector(
            selector["path"],
            selector.get("follow", False),
            selector.get("wildcard", False),
            *(tuple(selector.get(name, ())) for name in ("include", "exclude", "required")),
        )
        for selector in dep["contentSelectors"]
    )
    return selectors or keys.WHOLE_TREE


@pytest.mark.parametrize("record", [r for r in RECORDS if "pre_image" in r], ids=lambda r: r["case"])
def test_an_op_has_the_recorded_key(record: dict[str, Any]) -> None:
    inputs, op, platform = decode_op(raw(record))
    assert op is not None
    assert keys.pre_image(op, platform, len(inputs)) == record["pre_image"]
    key = keys.cache_map(op, platform, len(inputs))
    assert [key.digest] == record["op_digests"]
    assert [(dep["selector"], recorded_selectors(dep)) for dep in record["deps"]] == [
        each[:2] for each in key.inputs
    ]


def source_key_texts(record: dict[str, Any]) -> list[str]:
    _, op, platform = decode_op(raw(record))
    assert isinstance(op, SourceOp)
    if "image" in record:
        assert platform is not None
        chain = chain_id([Digest(text) for text in record["image"]["diff_ids"]])
        return list(source_keys.image_keys(Digest(record["image"]["digest"]), platform, chain))
    if "git" in record:
        found = record["git"]
        skip = op.attr("git.skipsubmodules") == "true"
        keep, sha, ref, subdir = found["keepGitDir"], found["sha"], found["ref"], found["subdir"]
        return [source_keys.git_key(sha, ref, subdir=subdir, keep_git_dir=keep, skip_submodules=skip)]
    found = record["http"]
    return [
        source_keys.http_key(
            found["filename"], Digest(found["checksum"]), last_modified=found["lastModifiedUsed"] or ""
        )
    ]


@pytest.mark.parametrize(
    "record", [r for r in RECORDS if {"image", "git", "http"} & r.keys()], ids=lambda r: r["case"]
)
def test_a_source_has_the_recorded_key(record: dict[str, Any]) -> None:
    assert [source_keys.source_digest(key) for key in source_key_texts(record)] == record["op_digests"]


def test_a_definition_lists_the_last_source_of_a_file_op_first() -> None:
    """`ADD u1 l u2 /d/` lists base, u2, l, u1 although the op's own inputs are base, u1, l, u2."""
    by_digest: dict[str, Vertex] = {}
    for record in RECORDS:
        inputs, op, platform = decode_op(raw(record))
        if op is not None:
            edges = [Edge(by_digest[name.digest], name.output) for name in inputs]
            by_digest[record["digest"]] = Vertex(op, edges, platform)
    widest = max(by_digest.values(), key=lambda vertex: len(vertex.inputs))
    assert len(widest.inputs) >= 3
    definition = define(Edge(widest))
    places = [definition.vertices.index(edge.vertex) for edge in widest.inputs]
    assert places[1:] == sorted(places[1:], reverse=True)
    assert definition.vertices[-1] is widest
    assert len(definition.ops) == len(definition.vertices) + 1
