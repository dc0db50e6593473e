"""Whatever an op holds, its bytes say it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.digest import Digest
from inlay.errors import SolveError
from inlay.llb import ops
from inlay.llb.graph import Definition, Vertex, define
from inlay.llb.schema import (
    ACTION,
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
from inlay.llb.wire import InputName, encode_op
from inlay.platform import Platform
from llb_decode import decode_op

TEXT = st.text(max_size=8)
INT64 = st.integers(-(2**63), 2**63 - 1)
ATTRS = st.dictionaries(TEXT, TEXT, max_size=4).map(
    lambda entries: tuple(sorted(entries.items(), key=lambda entry: entry[0].encode()))
)
NAMED = st.tuples(TEXT, st.integers(0, 3)).map(lambda named: ops.User(*named))
USERS = NAMED | st.integers(0, 2**32 - 1).map(lambda number: ops.User(id=number))


def messages(cls: Any) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: st.builds(cls, *[values(field[1], field[3]) for field in FIELDS[cls]]))


def values(kind: int, message: Any) -> st.SearchStrategy[Any]:
    if kind == ACTION:
        return st.one_of(*map(messages, (ops.Copy, ops.MakeFile, ops.MakeDirectory, ops.Remove, ops.Symlink)))
    if kind in (MESSAGE, MESSAGES):
        item = messages(message)
        return st.none() | item if kind == MESSAGE else st.lists(item, max_size=2).map(tuple)
    simple: dict[int, st.SearchStrategy[Any]] = {
        INT: INT64,
        BOOL: st.booleans(),
        STRING: TEXT,
        BYTES: st.binary(max_size=8),
        STRINGS: st.lists(TEXT, max_size=3).map(tuple),
        INTS: st.lists(INT64, max_size=3).map(tuple),
        MAP: ATTRS,
        USER: st.none() | USERS,
    }
    return simple[kind]


INPUTS = st.lists(st.builds(InputName, st.binary().map(Digest.of), st.integers(0, 9)), max_size=3).map(tuple)
PLATFORMS = st.none() | st.builds(Platform, TEXT, TEXT, TEXT, TEXT, st.lists(TEXT, max_size=2).map(tuple))


@given(INPUTS, st.one_of(*map(messages, OPS)), PLATFORMS)
def test_an_op_is_read_as_it_was_written(
    inputs: tuple[InputName, ...], op: ops.Op, platform: Platform | None
) -> None:
    assert decode_op(encode_op(inputs, op, platform)) == (inputs, op, platform)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_solve_error(data: bytes) -> None:
    with contextlib.suppress(SolveError):
        decode_op(data)


def test_text_that_is_not_utf_8_has_no_bytes() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        Vertex(ops.SourceOp("local://\udce9"))


def test_an_empty_result_has_an_empty_definition() -> None:
    assert define(None) == Definition((), None)
    assert define(None).ops == ()
