"""Definitions as other tools read them."""

from __future__ import annotations

import json

from inlay.digest import Digest
from inlay.errors import Location
from inlay.llb.dump import definition_bytes, definition_json
from inlay.llb.graph import Definition, Edge, Notes, ProgressGroup, Vertex, define
from inlay.llb.ops import Copy, FileAction, FileOp, Owner, SourceOp, User


def example() -> Definition:
    notes = Notes(
        "[1/1] COPY a b", location=Location("Dockerfile", 2, 3), progress_group=ProgressGroup("g", "COPY")
    )
    source = Vertex(SourceOp("local://context", (("local.session", "s"),)))
    copy = Copy("/a", "/b", Owner(User("joe"), User(id=0)), mode=-1)
    return define(Edge(Vertex(FileOp((FileAction(-1, 0, 0, copy),)), [Edge(source)], notes=notes)))


def split(data: bytes) -> list[tuple[int, bytes]]:
    """The fields of a message in which all have a length below 128 or of two bytes."""
    fields = []
    while data:
        size, start = data[1], 2
        if size > 127:
            size, start = (size & 127) | data[2] << 7, 3
        fields.append((data[0] >> 3, data[start : start + size]))
        data = data[start + size :]
    return fields


def test_a_raw_definition_has_the_ops_in_order_and_notes_by_digest() -> None:
    definition = example()
    fields = split(definition_bytes(definition, b"FROM scratch\n"))
    assert tuple(data for number, data in fields if number == 1) == definition.ops
    names = [split(data)[0][1].decode() for number, data in fields if number == 2]
    assert names == sorted(vertex.digest for vertex in definition.vertices)
    (sources,) = [data for number, data in fields if number == 3]
    assert b"FROM scratch\n" in sources
    assert b"[1/1] COPY a b" in definition_bytes(definition)


def test_json_shows_what_an_op_holds_and_leaves_out_what_it_does_not() -> None:
    definition = example()
    source, copy, last = json.loads(definition_json(definition))
    assert source["op"] == {"source": {"identifier": "local://context", "attrs": {"local.session": "s"}}}
    assert copy["op"]["inputs"] == [{"digest": definition.vertices[0].digest}]
    (action,) = copy["op"]["file"]["actions"]
    owner = {"user": {"byName": {"name": "joe"}}, "group": {"byID": 0}}
    assert action == {"input": -1, "copy": {"src": "/a", "dest": "/b", "owner": owner, "mode": -1}}
    assert copy["metadata"]["location"] == "Dockerfile:2"
    assert last["op"]["inputs"] == [{"digest": definition.vertices[1].digest}]
    assert last["digest"] == Digest.of(definition.ops[-1])


def test_an_empty_definition_is_empty() -> None:
    assert definition_bytes(define(None)) == b""
    assert json.loads(definition_json(define(None))) == []
