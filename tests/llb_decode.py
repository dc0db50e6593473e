"""Read the bytes of ops, which inlay itself only writes (`inlay.llb.wire`): recorded ones are compared with that."""

from __future__ import annotations

from inlay.digest import Digest
from inlay.errors import SolveError
from inlay.llb.ops import Op, User
from inlay.llb.schema import (
    ACTIONS,
    BOOL,
    BYTES,
    FIELDS,
    INT,
    MAP,
    MESSAGE,
    MESSAGES,
    OPS,
    STRING,
    STRINGS,
    USER,
    Field,
)
from inlay.llb.wire import InputName
from inlay.platform import Platform
from inlay.typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

Message = TypeVar("Message")

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class RawOp(NamedTuple):
    """What `encode_op` was given. `op` is None for the last op of a definition: it names the result."""

    inputs: tuple[InputName, ...]
    op: Op | None
    platform: Platform | None


def decode_op(data: bytes) -> RawOp:
    """Read `pb.Op`. Raises `SolveError` where it is no op that inlay knows."""
    inputs: list[InputName] = []
    op: Op | None = None
    platform: Platform | None = None
    classes = {number: cls for cls, number in OPS.items()}
    for number, value in _read(data):
        if number == 1:
            inputs.append(_decode_input(_bytes(value)))
        elif number in classes:
            op = decode(classes[number], _bytes(value))
        elif number == 10:
            platform = _decode_platform(_bytes(value))
        elif number != 11:
            raise SolveError(f"an op of kind {number} is none that inlay can run")
    return RawOp(tuple(inputs), op, platform)


def decode(cls: Callable[..., Message], data: bytes) -> Message:
    """Read one message of `ops`. Raises `SolveError` where it has a field that inlay does not know."""
    positions = {field[0]: (position, field) for position, field in enumerate(FIELDS[cls])}  # type: ignore[index]
    actions = {number: action for action, number in ACTIONS.items()}
    names: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
    values: dict[str, Any] = {}
    for number, value in _read(data):
        if number in positions:
            position, field = positions[number]
            values[names[position]] = _decode_field(field, value, values.get(names[position]))
        elif 0 in positions and number in actions:
            values["action"] = decode(actions[number], _bytes(value))
        else:
            raise SolveError(f"field {number} of {getattr(cls, '__name__', cls)} is none that inlay knows")
    for name, (_, kind, _, _) in zip(names, FIELDS[cls], strict=True):  # type: ignore[index]
        if kind == MAP and name in values:
            values[name] = tuple(sorted(values[name]))
    return cls(**values)


def _read(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number, and a varint or the bytes of all else."""
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _read_varint(data, position)
            yield number, value
            continue
        if wire_type == _LENGTH:
            length, position = _read_varint(data, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise SolveError("an op's bytes are not protobuf")
        if position + length > len(data):
            raise SolveError("an op's bytes end too early")
        yield number, data[position : position + length]
        position += length


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if position >= len(data):
            raise SolveError("an op's bytes end too early")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, position
        shift += 7
    raise SolveError("an op's bytes are not protobuf")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise SolveError("an op has bytes where a number must be")
    return _signed(value)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise SolveError("an op has a number where bytes must be")
    return value


def _text(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError as error:
        raise SolveError("an op has a text that is not UTF-8") from error


def _decode_field(field: Field, value: int | bytes, before: Any) -> Any:
    """The field's value once `value` is added to what was read `before`."""
    _, kind, _, message = field
    if kind == INT:
        return _int(value)
    if kind == BOOL:
        return bool(_int(value))
    if kind == STRING:
        return _text(value)
    if kind == BYTES:
        return _bytes(value)
    if kind == USER:
        return _decode_user(_bytes(value))
    if kind == MESSAGE:
        return decode(message, _bytes(value))  # type: ignore[arg-type]
    return (*(before or ()), *_decode_items(kind, message, value))


def _decode_items(kind: int, message: type | None, value: int | bytes) -> Iterator[Any]:
    if kind == STRINGS:
        yield _text(value)
    elif kind == MESSAGES:
        yield decode(message, _bytes(value))  # type: ignore[arg-type]
    elif kind == MAP:
        entry = {number: _text(part) for number, part in _read(_bytes(value))}
        yield entry.get(1, ""), entry.get(2, "")
    elif isinstance(value, int):
        yield _signed(value)
    else:
        position = 0
        while position < len(value):
            item, position = _read_varint(value, position)
            yield _signed(item)


def _decode_user(data: bytes) -> User:
    user = User()
    for number, value in _read(data):
        if number == 2:
            user = User(id=_int(value))
        elif number == 1:
            named = dict(_read(_bytes(value)))
            user = User(_text(named.get(1, b"")), _int(named.get(2, 0)))
    return user


def _decode_input(data: bytes) -> InputName:
    fields = dict(_read(data))
    return InputName(Digest.parse(_text(fields.get(1, b""))), _int(fields.get(2, 0)))


def _decode_platform(data: bytes) -> Platform:
    texts = {1: "", 2: "", 3: "", 4: ""}
    features: list[str] = []
    for number, value in _read(data):
        if number == 5:
            features.append(_text(value))
        else:
            texts[number] = _text(value)
    return Platform(texts[2], texts[1], texts[3], texts[4], tuple(features))
