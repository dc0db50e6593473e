from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.dockerfile.shell import Lexer
from inlay.dockerfile.wildcard import Wildcard
from inlay.errors import DockerfileError

LEXER = Lexer("\\")


def test_names_that_were_set_and_not_set_are_reported() -> None:
    expansion = LEXER.expand("$A ${B:-x} '$C'", {"A": "1"})
    assert expansion.text == "1 x $C"
    assert (expansion.matched, expansion.unmatched) == ({"A"}, {"B"})


def test_splitting_happens_after_expansion_and_not_in_quotes() -> None:
    assert LEXER.split("a$A '$A b' \"$A\"", {"A": "1 2"}) == ["a1", "2", "$A b", "1 2"]


def test_text_before_a_substitution_with_a_word_is_lost_when_splitting() -> None:
    assert LEXER.split("abc${V:-x}", {}) == ["x"]
    assert LEXER.expand("abc${V:-x}", {}).text == "abcx"


def test_errors_quote_the_word() -> None:
    with pytest.raises(DockerfileError, match=r"""failed to process "\\"a\$": unexpected end of statement"""):
        LEXER.expand('"a$', {})


@pytest.mark.parametrize("word", ["${a:-" * 10_000, "${a:-" * 5_000 + "}" * 5_000, '"${a#' * 10_000])
def test_deep_nesting_is_refused(word: str) -> None:
    with pytest.raises(DockerfileError):
        LEXER.expand(word, {})


def test_a_result_that_explodes_is_refused() -> None:
    with pytest.raises(DockerfileError, match="longer than"):
        LEXER.expand("$A" * 30_000, {"A": "x" * 30_000})


@given(
    st.text() | st.text("${}:-+?#%/\\'\"`<ab *\n\udcff", max_size=40),
    st.sampled_from("\\`"),
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
)
def test_any_word_expands_or_is_a_dockerfile_error(word: str, escape: str, modes: tuple[bool, ...]) -> None:
    lexer = Lexer(escape, *modes)
    env = {"a": "x y", "b": "a*b\n"}
    for read in (lexer.expand, lexer.split):
        with contextlib.suppress(DockerfileError):
            read(word, env)


@given(st.text("ab*?", max_size=6), st.text("ab\n", max_size=8), st.booleans(), st.integers(0, 8))
def test_wildcards_find_what_the_regular_expression_finds(
    pattern: str, text: str, greedy: bool, at: int
) -> None:
    star = ".*" if greedy else ".*?"
    expected = re.compile(pattern.replace("?", ".").replace("*", star)).search(text, min(at, len(text)))
    assert Wildcard(pattern, text, greedy=greedy).find(min(at, len(text))) == (expected and expected.span())


def test_hostile_patterns_take_linear_time() -> None:
    start = time.process_time()
    env = {"A": "a" * 60_000}
    for word in ("${A//*a*a*a*b/x}", "${A##*a*a*a*b}", "${A%b*a*a*a}", "${A/" + "*a" * 100 + "b/}"):
        assert LEXER.expand(word, env).text == env["A"]
    assert time.process_time() - start < 10


def test_the_template_of_a_global_replacement() -> None:
    assert LEXER.expand(r"${A//b/[\$0]}", {"A": "abcb"}).text == r"a[\b]c[\b]"
    assert LEXER.expand(r"${A//b/[\$1]}", {"A": "abcb"}).text == r"a[\]c[\]"


def test_replacements_of_empty_matches() -> None:
    assert LEXER.expand("${A//*/x}", {"A": "ab"}).text == "x"
    assert LEXER.expand("${A///x}", {"A": "ab"}).text == "xaxbx"
