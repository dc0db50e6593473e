from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inlay.dockerfile.parser import Heredoc, chomp_heredoc, parse, parse_heredoc
from inlay.errors import DockerfileError, Location


def test_instructions_keep_their_lines_flags_and_comments() -> None:
    result = parse(b"# base\nFROM a AS b\n\nRUN --network=none \\\n  # why\n  x\n")
    first, second = result.instructions
    assert (first.name, first.arguments, first.comments) == ("from", ("a", "AS", "b"), ("base",))
    assert (second.flags, second.arguments) == (("--network=none",), ("x",))
    assert (second.original, second.first_line, second.last_line) == ("RUN --network=none   x", 4, 6)


def test_bytes_that_are_not_utf8_stay_in_run_and_are_replaced_in_env() -> None:
    run, env = parse(b"RUN \xff\nENV A=\xff\n").instructions
    assert run.arguments == ("\udcff",)
    assert env.arguments == ("A", "\ufffd", "=")


def test_flags_are_read_byte_by_byte() -> None:
    (node,) = parse("RUN --a=é\xa0 --b='c d' -- x".encode()).instructions
    assert node.flags == ("--a=\xc3\xa9\xc2", "--b=c d")
    assert node.arguments == ("x",)


def test_onbuild_holds_an_instruction_and_its_heredocs() -> None:
    (node,) = parse(b"ONBUILD COPY <<-'A b' /x\n\ty\nA b\n").instructions
    assert node.child is not None
    assert node.child.arguments == ("<<-'A", "b'", "/x")
    assert node.heredocs == (Heredoc("A b", "\ty\n", expand=False, chomp=True),)
    assert chomp_heredoc(node.heredocs[0].content) == "y\n"


def test_a_heredoc_begins_with_two_angle_brackets_and_perhaps_a_descriptor() -> None:
    assert parse_heredoc("3<<E") == Heredoc("E", file_descriptor=3)
    assert parse_heredoc("<<<E") is None
    assert parse_heredoc("x<<E") is None
    heredoc = parse_heredoc("9" * 5000 + "<<E")
    assert heredoc is not None
    assert heredoc.file_descriptor == 2**64 - 1


@pytest.mark.parametrize(
    ("text", "message", "lines"),
    [
        (b"", "file with no instructions", (0, 0)),
        (
            b"FROM a\nRUN [1]\n",
            "when using JSON array syntax, arrays must be comprised of strings only",
            (2, 2),
        ),
        (b"FROM a\nRUN <<E\nx\n", "unterminated heredoc", (2, 3)),
        (b"# escape=\\\n# escape=`\n", "only one escape parser directive can be used", (1, 1)),
        (b"# escape= \n", "invalid escape token ' ' does not match ` or \\", (0, 0)),
        (b"FROM a\nRUN " + b"x" * 65_532, "dockerfile line greater than max allowed size of 65535", (1, 1)),
    ],
)
def test_errors_name_the_lines_that_buildkit_names(text: bytes, message: str, lines: tuple[int, int]) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(text, filename="x")
    assert caught.value.message == message
    assert caught.value.location == Location("x", *lines)


def test_a_line_may_be_as_long_as_buildkit_reads() -> None:
    assert len(parse(b"RUN " + b"x" * 65_531 + b"\nRUN y").instructions) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r'["a\u00e9\ud83d\ude00\ud800", "\n"]', ("aé😀\ufffd", "\n")),
        ('[ "a" ,\t"b" ] ', ("a", "b")),
        ("[]", ()),
        ('["a",]', None),
        ('["a"] x', None),
        ("['a']", None),
        ('["\\x"]', None),
        ('["a", 1e999]', None),
        ('["a", 01]', None),
        ('[{"a": [1, null}]]', None),
        ("[" * 10_001 + "]" * 10_001, None),
    ],
)
def test_a_json_list_of_strings_is_known_and_all_else_is_text(
    text: str, words: tuple[str, ...] | None
) -> None:
    (node,) = parse(f"RUN {text}".encode()).instructions
    assert (node.arguments, node.is_json) == ((text.strip(),) if words is None else words, words is not None)


@pytest.mark.parametrize(
    "text", ["[1]", '["a", true]', '[{"a": [1.5e3, null]}]', "[[]]", "[" * 9_999 + "]" * 9_999]
)
def test_valid_json_that_is_no_list_of_strings_is_an_error(text: str) -> None:
    with pytest.raises(DockerfileError, match="comprised of strings only"):
        parse(f"RUN {text}".encode())


names = st.sampled_from(
    [
        b"FROM",
        b"RUN",
        b"COPY",
        b"ENV",
        b"ARG",
        b"ONBUILD",
        b"HEALTHCHECK",
        b"CMD",
        b"EXPOSE",
        b"x",
        b"#",
        b"# escape=",
    ]
)
pieces = st.sampled_from(
    [
        b" ",
        b"\\",
        b"`",
        b"\n",
        b"\r\n",
        b"--a",
        b'"',
        b"'",
        b"<<E",
        b"\nE\n",
        b"$",
        b"${",
        b"}",
        b"[",
        b"]",
        b",",
        b"=",
    ]
)


@given(st.binary() | st.lists(names | pieces | st.binary(max_size=2), max_size=20).map(b"".join))
@example(b"\0")
@example(b"\\")
@example(b"\xef\xbb\xbf#\n\\\n")
def test_any_bytes_parse_or_are_a_dockerfile_error(text: bytes) -> None:
    assert _outcome(text)


@pytest.mark.parametrize(
    "text",
    [
        b"FROM a\n" + b"RUN a && \\\n  # c\n  b\nENV A=1 B='x y'\nCOPY --chown=1 a b c/\n" * 20_000,
        b"# c\n" * 200_000,
        b"RUN " + b"x \\\n" * 200_000,
        b"RUN " + b"<<a \\\n" * 50_000 + b"\n" + b"a\n" * 50_000,
        b"ENV " + b"\\" * 60_000,
        b"ENV a=" + b"\"'" * 30_000,
        b"RUN --a" + b"'\"" * 30_000,
        b"ONBUILD " * 8_000,
        b"RUN " + b"[" * 60_000,
        b"CMD [" + b'"a",' * 16_000 + b"1]",
        b"RUN " + b"x" * 10_000_000,
        b"# check=" + b" " * 60_000 + b"x" + b" " * 5_000,
        b"\0" * 1_000_000,
    ],
    ids=range(13),
)
def test_hostile_texts_take_linear_time(text: bytes) -> None:
    start = time.process_time()
    assert _outcome(text)
    assert time.process_time() - start < 5


def _outcome(text: bytes) -> object:
    """The instructions, or where the error is."""
    try:
        return parse(text).instructions
    except DockerfileError as error:
        return error.location
