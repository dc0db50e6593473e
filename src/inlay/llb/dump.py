"""A definition as other tools read it: `pb.Definition`, as `buildctl build` takes it, or JSON to look at.

BuildKit: client/llb/marshal.go `WriteTo`, cmd/buildctl/debug/dumpllb.go.
"""

from __future__ import annotations

import json

from inlay.digest import Digest
from inlay.llb.schema import ACTION, ACTIONS, BYTES, FIELDS, MAP, MESSAGE, MESSAGES, OPS, USER
from inlay.llb.wire import varint
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from inlay.errors import Location
    from inlay.llb.graph import Definition, Notes, Resources, Vertex
    from inlay.llb.ops import User

_OP_NAMES = {3: "source", 2: "exec", 4: "file", 6: "merge", 7: "diff"}
_ACTION_NAMES = {4: "copy", 5: "mkfile", 6: "mkdir", 7: "rm", 8: "symlink"}


def definition_bytes(definition: Definition, dockerfile: bytes = b"") -> bytes:
    """Write `pb.Definition`: the ops in order, what is noted of each, and its lines in the Dockerfile."""
    ops = [_field(1, op) for op in definition.ops]
    vertices = sorted(definition.vertices, key=lambda vertex: vertex.digest)
    metadata = [_entry(2, vertex.digest, _metadata(vertex.notes)) for vertex in vertices]
    return b"".join([*ops, *metadata, _source_map(vertices, dockerfile)])


def definition_json(definition: Definition) -> str:
    """A list of ops with their digests and what is noted of them; what is empty is left out."""
    ops: list[dict[str, Any]] = [
        {"digest": vertex.digest, "op": _op_fields(vertex), "metadata": _notes_fields(vertex.notes)}
        for vertex in definition.vertices
    ]
    if definition.target is not None:
        target = {"digest": definition.target.vertex.digest, "index": definition.target.output}
        ops.append({"digest": Digest.of(definition.ops[-1]), "op": {"inputs": [_kept(target)]}})
    return json.dumps(ops, indent=2, ensure_ascii=False)


def _field(number: int, value: bytes | str | int) -> bytes:
    """One field of a message; nothing where the value is the default."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    data = value.encode(errors="replace") if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data if data else b""


def _message(number: int, parts: Iterable[bytes]) -> bytes:
    """A message as a field: written even where it is empty."""
    data = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(data)) + data


def _entry(number: int, key: str, value: bytes) -> bytes:
    return _message(number, (_field(1, key), _message(2, (value,))))


def _metadata(notes: Notes) -> bytes:
    group = notes.progress_group
    description = [
        _message(2, (_field(1, name), _field(2, text))) for name, text in _description(notes).items()
    ]
    parts = [_field(1, notes.ignore_cache), *description]
    if group is not None:
        parts.append(_message(6, (_field(1, group.id), _field(2, group.name), _field(3, group.weak))))
    if notes.resources is not None:
        parts.append(_message(7, _resources(notes.resources)))
    return b"".join(parts)


def _resources(resources: Resources) -> list[bytes]:
    values: tuple[str | int, ...] = resources
    return [_field(number, value) for number, value in enumerate(values, start=1)]


def _description(notes: Notes) -> dict[str, str]:
    named = {"llb.customname": notes.name} if notes.name else {}
    return dict(sorted({**dict(notes.description), **named}.items()))


def _source_map(vertices: list[Vertex], dockerfile: bytes) -> bytes:
    places = [(vertex.digest, vertex.location) for vertex in vertices]
    located = [(digest, place) for digest, place in places if place is not None]
    if not located:
        return b""
    locations = [_entry(1, digest, _location(place)) for digest, place in located]
    info = (_field(1, located[0][1].filename), _field(2, dockerfile), _field(4, "Dockerfile"))
    return _message(3, [*locations, _message(2, info)])


def _location(place: Location) -> bytes:
    """`pb.Locations`: one range for each line."""
    lines = range(place.first_line, place.last_line + 1)
    ranges = [_message(2, (_message(1, (_field(1, n),)), _message(2, (_field(1, n),)))) for n in lines]
    return _message(1, ranges)


def _op_fields(vertex: Vertex) -> dict[str, Any]:
    inputs = [_kept({"digest": edge.vertex.digest, "index": edge.output}) for edge in vertex.inputs]
    platform = vertex.platform.to_json() if vertex.platform else {}
    return _kept({"inputs": inputs, "platform": platform}) | {
        _OP_NAMES[OPS[type(vertex.op)]]: _fields(vertex.op)
    }


def _notes_fields(notes: Notes) -> dict[str, Any]:
    group, place = notes.progress_group, notes.location
    return _kept(
        {
            "description": _description(notes),
            "ignoreCache": notes.ignore_cache,
            "progressGroup": _kept(group._asdict()) if group else {},
            "resources": _kept(notes.resources._asdict()) if notes.resources else {},
            "location": f"{place.filename}:{place.first_line}" if place else "",
        }
    )


def _fields(message: tuple[Any, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for value, (_, kind, name, _) in zip(message, FIELDS[type(message)], strict=True):
        if kind == ACTION:
            fields[_ACTION_NAMES[ACTIONS[type(value)]]] = _fields(value)
        elif value:
            fields[name] = _value(kind, value)
    return fields


def _value(kind: int, value: Any) -> Any:
    if kind == USER:
        return _user(value)
    if kind == MESSAGE:
        return _fields(value)
    if kind == MESSAGES:
        return [_fields(item) for item in value]
    if kind == MAP:
        return dict(value)
    return value.decode(errors="replace") if kind == BYTES else value


def _user(user: User) -> dict[str, Any]:
    if user.name is None:
        return {"byID": user.id}
    return {"byName": _kept({"name": user.name, "input": user.input})}


def _kept(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
