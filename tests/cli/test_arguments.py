"""What is read without argparse is what argparse would have read."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.cli import build
from inlay.cli.arguments import Arguments
from inlay.errors import UsageError

if TYPE_CHECKING:
    from inlay.request import BuildRequest

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


def test_flags_may_have_docker_s_boolean_values() -> None:
    def plain(*argv: str) -> list[str]:
        arguments = Arguments()
        build.add(arguments)  # type: ignore[arg-type]
        return arguments.plain(argv)

    assert plain("--push=true", "--no-cache=0", "--pull=T", ".") == ["--push", "--pull", "."]
    assert plain("--tag=true", "--push=maybe", "--build-arg=A=false") == [
        "--tag=true", "--push=maybe", "--build-arg=A=false",
    ]  # fmt: skip


def request(*argv: str) -> BuildRequest:
    return build.request_of(argparse.Namespace(**by_argparse([*argv, "."])))


def test_what_scripts_for_docker_pass_is_taken() -> None:
    plain = request()
    assert (
        request("--load", "--rm", "--force-rm", "--provenance=false", "--sbom=false", "--builder=x") == plain
    )
    with pytest.raises(UsageError, match="--provenance: attestations are not made"):
        request("--provenance=mode=max")
    assert request("--label", "a", "--label", "b=c=d").labels == (("a", ""), ("b", "c=d"))


def test_what_is_taken_for_docker_s_sake_is_not_in_the_help() -> None:
    parser = argparse.ArgumentParser()
    build.add(parser)
    assert not {word for word in ("SUPPRESS", "--load", "--provenance") if word in parser.format_help()}


def test_hosts_are_written_in_docker_s_ways() -> None:
    hosts = ("a:10.0.0.1", "b=10.0.0.2", "c:[fe80::1]", "d=fe80::2", "e:host-gateway")
    flags = [part for host in hosts for part in ("--add-host", host)]
    assert request(*flags).add_hosts == (
        "a=10.0.0.1", "b=10.0.0.2", "c=fe80::1", "d=fe80::2", "e=127.0.0.1",
    )  # fmt: skip
    for wrong in ("a", "a:", ":1.2.3.4"):
        with pytest.raises(UsageError, match="expected HOST:IP"):
            request("--add-host", wrong)


@pytest.mark.parametrize(
    "argv", [[], ["--help"], ["--pus", "."], [".", "."], ["--tag"], ["--progress=odd", "."]]
)
def test_what_needs_words_is_left_to_argparse(argv: list[str]) -> None:
    assert quickly(argv) is None


def test_values_do_not_leak_into_the_defaults() -> None:
    assert quickly(["-t", "a", "."]) != quickly(["."])
    assert quickly(["."]) == by_argparse(["."])
