from __future__ import annotations

import pytest

from inlay.dockerfile.directives import Directive, detect_syntax, find_directive
from inlay.dockerfile.parser import parse


def test_directives_stand_before_everything_else() -> None:
    text = b"# syntax = docker/dockerfile:1 x\n#check=skip=all\n\n# escape=`\nFROM a\n"
    assert find_directive(text, "check") == Directive("check", "skip=all", 2)
    assert find_directive(text, "escape") is None
    syntax = detect_syntax(text)
    assert syntax is not None
    assert (syntax.value, syntax.reference) == ("docker/dockerfile:1 x", "docker/dockerfile:1")


@pytest.mark.parametrize(
    "text",
    [
        b"#!/bin/sh\n# syntax=x\n",
        b"\xef\xbb\xbf#syntax=x",
        b"// syntax=x\r\n",
        b'{"syntax": "x"}',
        b"#!/bin/sh\n// SYNTAX = x",
    ],
)
def test_syntax_is_found_in_other_forms_too(text: bytes) -> None:
    syntax = detect_syntax(text)
    assert syntax is not None
    assert syntax.value == "x"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b'{"syntax": 1}', b"# a\n# syntax=x", b"{" * 100_000]
)
def test_what_is_no_syntax_directive(text: bytes) -> None:
    assert detect_syntax(text) is None


def test_the_escape_directive_counts_for_the_whole_file() -> None:
    result = parse(b"# escape=`\nFROM a\nRUN x `\n  y \\\nCOPY a b\\\n")
    assert result.escape == "`"
    assert [node.original for node in result.instructions] == ["FROM a", "RUN x   y \\", "COPY a b\\"]
