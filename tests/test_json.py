"""JSON is read and written as `json` does it."""

from __future__ import annotations

import json as theirs
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay import json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_what_is_written_is_what_json_writes(value: Any, ensure_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    assert text == theirs.dumps(value, ensure_ascii=ensure_ascii, separators=(",", ":"))
    assert json.loads(text) == value
    assert json.loads(theirs.dumps(value, indent=2) + "\n") == value


@pytest.mark.parametrize("imported", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{", "[1,]", '{"a" 1}', "1 2", '"\n"', "nul", "[1] x", "\ufeff1", "{'a':1}", '"\\x"'),
        *('{"x', '[[{"a":"\\u12'),
        *("NaN", "-Infinity", " \t\r\n[1]\n", "1e5", "-0", '"\\ud800"', "[" * 20 + "]" * 20),
        *(b'"\xff"', b"\xef\xbb\xbf1", '"\u20ac"'.encode(), '{"a":1}'.encode("utf-16"), b'"\xed\xa0\x80"'),
    ],
)
def test_what_is_read_or_refused_is_what_json_reads_or_refuses(
    text: str | bytes, imported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not imported:
        for name in [name for name in sys.modules if name == "json" or name.startswith("json.")]:
            monkeypatch.delitem(sys.modules, name)  # the scanner looks there for the error that it raises

    def outcome(loads: Any) -> str:
        try:
            return repr(loads(text))
        except ValueError as error:
            return f"{type(error).__name__}: {error}"

    assert outcome(json.loads) == outcome(theirs.loads)


@pytest.mark.parametrize("part", ["[", '{"a":'])
def test_what_is_nested_too_deeply_is_refused_by_every_python_alike(part: str) -> None:
    with pytest.raises(ValueError, match=r"^exceeded max depth$"):
        json.loads(part * 100_000)


def test_what_has_no_place_in_json_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes"):
        json.dumps([b"x"])
