"""Accounts are read as Go's programs read them: by lines that end with a newline alone."""

from __future__ import annotations

from inlay.system.accounts import entries


def test_lines_have_fields_and_blank_ones_are_none() -> None:
    text = "root:x:0:0::/root:/bin/sh\n\n  \t\n  joe:x:7 \r\n#old:x\n+\nlast:x"
    assert [fields[0] for fields in entries(text)] == ["root", "joe", "#old", "+", "last"]
    assert list(entries(text))[1] == ["joe", "x", "7"]


def test_a_line_goes_on_after_what_only_python_takes_for_its_end() -> None:
    assert list(entries("a:x:1:1:A\x0cB\u2028C:/\n")) == [["a", "x", "1", "1", "A\x0cB\u2028C", "/"]]
