"""What is read without argparse is what argparse would have read."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.cli import build
from inlay.cli.arguments import Arguments

_WORDS = st.sampled_from(
    [
        *(
            "-t",
            "--tag",
            "--tag=a",
            "-ta",
            "-o",
            "--output=type=oci,dest=-",
            "--push",
            "--push=1",
            "-q",
            "-qt",
        ),
        *(
            "--progress",
            "--progress=plain",
            "--progress=odd",
            "plain",
            "--no-cache",
            "--no-cache-filter",
            "--no-c",
        ),
        *(
            "--build-arg",
            "A=1",
            "--build-arg=B",
            "-",
            "--",
            ".",
            "ctx",
            "",
            "-1",
            "--root",
            "/r",
            "--check",
            "-f=x",
        ),
    ]
)


def quickly(argv: list[str]) -> dict[str, object] | None:
    arguments = Arguments()
    build.add(arguments)  # type: ignore[arg-type]
    parsed = arguments.parse(argv)
    return None if parsed is None else vars(parsed)


def by_argparse(argv: list[str]) -> dict[str, object]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    build.add(parser)
    return vars(parser.parse_args(argv))


@given(st.lists(_WORDS, max_size=8))
def test_whatever_is_read_is_read_alike(argv: list[str]) -> None:
    parsed = quickly(argv)
    if parsed is not None:
        assert parsed == by_argparse(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["."],
        ["-t", "a", "--tag=b", "--push", "--cache-to", "type=inline", "."],
        ["--cache-from", "type=registry,ref=x", "--root=/r", "--progress", "plain", "-"],
    ],
)
def test_ordinary_command_lines_need_no_argparse(argv: list[str]) -> None:
    assert quickly(argv) == by_argparse(argv)


@pytest.mark.parametrize(
    "argv", [[], ["--help"], ["--pus", "."], [".", "."], ["--tag"], ["--progress=odd", "."]]
)
def test_what_needs_words_is_left_to_argparse(argv: list[str]) -> None:
    assert quickly(argv) is None


def test_values_do_not_leak_into_the_defaults() -> None:
    assert quickly(["-t", "a", "."]) != quickly(["."])
    assert quickly(["."]) == by_argparse(["."])
