"""The bytes of ops, as Go's deterministic protobuf writes them.

Go differs from other runtimes in what a digest sees: a oneof's member comes after all other fields, and map
entries are sorted by the bytes of their keys.
"""

from __future__ import annotations

from inlay.llb.schema import (
    ACTION,
    ACTIONS,
    BOOL,
    BYTES,
    FIELDS,
    INT,
    INTS,
    MAP,
    MESSAGE,
    MESSAGES,
    OPS,
    STRING,
    STRINGS,
    USER,
)
from inlay.typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from inlay.digest import Digest
    from inlay.llb.ops import Op, User
    from inlay.platform import Platform

Message = TypeVar("Message")

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_CONSTRAINTS = b"\x5a\x00"
"""An empty `constraints` message: every op has it but the last one of a definition."""


class InputName(NamedTuple):
    """An op's input on the wire: output `output` of the op whose bytes have `digest`."""

    digest: Digest
    output: int = 0


def encode_op(inputs: Iterable[InputName], op: Op | None, platform: Platform | None = None) -> bytes:
    """Write `pb.Op`. Raises `ValueError` where a text is not UTF-8."""
    out = bytearray()
    for digest, output in inputs:
        body = b"\n" + varint(len(digest)) + digest.encode() + (b"\x10" + varint(output) if output else b"")
        out += b"\n" + varint(len(body)) + body
    if op is None:
        return bytes(out)
    if platform is not None:
        _write_bytes(out, b"\x52", _encode_platform(platform))
    out += _CONSTRAINTS
    _write_bytes(out, _tag(OPS[type(op)], _LENGTH), encode(op))
    return bytes(out)


def encode(message: tuple[Any, ...]) -> bytes:
    """Write one message of `ops`. Raises `ValueError` where a text is not UTF-8."""
    out = bytearray()
    for value, (write, tag) in zip(message, _WRITERS[type(message)], strict=True):
        if value:
            write(out, tag, value)
    return bytes(out)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number counts as one of 64 bits."""
    if 0 <= value < 128:
        return _SMALL[value]
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [bytes([value]) for value in range(128)]


def _tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def _write_int(out: bytearray, tag: bytes, value: int) -> None:
    out += tag + varint(value)


def _write_bytes(out: bytearray, tag: bytes, value: bytes) -> None:
    out += tag + varint(len(value)) + value


def _write_string(out: bytearray, tag: bytes, value: str) -> None:
    data = value.encode()
    out += tag + varint(len(data)) + data


def _write_strings(out: bytearray, tag: bytes, values: Iterable[str]) -> None:
    for value in values:
        _write_string(out, tag, value)


def _write_ints(out: bytearray, tag: bytes, values: Iterable[int]) -> None:
    _write_bytes(out, tag, b"".join([varint(value) for value in values]))


def _write_message(out: bytearray, tag: bytes, value: tuple[Any, ...]) -> None:
    _write_bytes(out, tag, encode(value))


def _write_messages(out: bytearray, tag: bytes, values: Iterable[tuple[Any, ...]]) -> None:
    for value in values:
        _write_bytes(out, tag, encode(value))


def _write_map(out: bytearray, tag: bytes, pairs: Iterable[tuple[str, str]]) -> None:
    for key, value in sorted(pairs, key=_entry_key):
        entry = bytearray()
        _write_string(entry, b"\x0a", key)
        _write_string(entry, b"\x12", value)
        _write_bytes(out, tag, bytes(entry))


def _write_user(out: bytearray, tag: bytes, user: User) -> None:
    if user.name is None:
        _write_bytes(out, tag, b"\x10" + varint(user.id))
        return
    named = bytearray()
    if user.name:
        _write_string(named, b"\x0a", user.name)
    if user.input:
        _write_int(named, b"\x10", user.input)
    _write_bytes(out, tag, b"\x0a" + varint(len(named)) + named)


def _write_action(out: bytearray, _tag_of_none: bytes, action: tuple[Any, ...]) -> None:
    _write_bytes(out, _tag(ACTIONS[type(action)], _LENGTH), encode(action))


def _entry_key(entry: tuple[str, str]) -> bytes:
    return entry[0].encode()


def _encode_platform(platform: Platform) -> bytes:
    out = bytearray()
    fields = (platform.architecture, platform.os, platform.variant, platform.os_version)
    for number, value in enumerate(fields, start=1):
        if value:
            _write_string(out, _tag(number, _LENGTH), value)
    _write_strings(out, b"\x2a", platform.os_features)
    return bytes(out)


_BY_KIND: dict[int, tuple[Callable[..., None], int]] = {
    INT: (_write_int, _VARINT),
    BOOL: (_write_int, _VARINT),
    STRING: (_write_string, _LENGTH),
    BYTES: (_write_bytes, _LENGTH),
    MESSAGE: (_write_message, _LENGTH),
    STRINGS: (_write_strings, _LENGTH),
    MESSAGES: (_write_messages, _LENGTH),
    INTS: (_write_ints, _LENGTH),
    MAP: (_write_map, _LENGTH),
    USER: (_write_user, _LENGTH),
    ACTION: (_write_action, _LENGTH),
}

_WRITERS: dict[type, list[tuple[Callable[..., None], bytes]]] = {
    cls: [(_BY_KIND[kind][0], _tag(number, _BY_KIND[kind][1])) for number, kind, _, _ in fields]
    for cls, fields in FIELDS.items()
}
