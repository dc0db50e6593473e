from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.dockerfile.ignore import parse_ignore
from inlay.errors import UsageError
from inlay.golang.patterns import PatternMatcher, clean, go_match, join

VECTORS = Path(__file__).parents[1] / "vectors/frontend/unit-ignore.jsonl.gz"


def test_ignore_files_match_as_recorded() -> None:
    for line in gzip.decompress(VECTORS.read_bytes()).splitlines():
        case = json.loads(line)
        patterns = parse_ignore(case["in"]["text"].encode())
        assert patterns == (case["patterns"] or [])
        assert _matches(patterns, case["in"]["paths"]) == case.get("match", case.get("matcher_error"))


def _matches(patterns: list[str], paths: list[str]) -> dict[str, bool] | str:
    try:
        matcher = PatternMatcher(patterns)
        return {path: matcher.matches_or_parent(path) for path in paths}
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("", "."),
        ("a//b/./c/..", "a/b"),
        ("../a/../..", "../.."),
        ("/../a/", "/a"),
        ("/..", "/"),
        ("a/..", "."),
    ],
)
def test_clean_shortens_by_text_alone(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


def test_join_skips_what_is_empty() -> None:
    assert join("/a", "", "../b/") == "/b"
    assert join("", "") == ""
    assert join("/", "/x") == "/x"


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*c", "abc", True),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("ab[^e-g]", "abc", True),
        ("a[^a]b", "a/b", True),
        ("a?b", "a/b", False),
        ("a???b", "a☺b", False),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("[\\]a]", "]", True),
        ("[\\-x]", "-", True),
        ("[z-a]", "b", False),
        ("[^z-a]", "b", True),
        ("*x", "xxx", True),
        ("a\\*b", "a*b", True),
        ("*[^x]b/c", "a/b/c", True),
        ("", "", True),
        ("***", "a", True),
        ("?", "\udcff", True),
        ("a\n", "a", False),
        ("a", "a\n", False),
    ],
)
def test_names_match_as_in_go(pattern: str, name: str, matches: bool) -> None:
    assert go_match(pattern, name) is matches


@pytest.mark.parametrize(
    "pattern", ["[]a]", "[-]", "[x-]", "[", "[^", "[^bc", "a[", "\\", "a/b[", "[\udcff]", "*[a-"]
)
def test_malformed_patterns_are_refused_whatever_the_name(pattern: str) -> None:
    with pytest.raises(UsageError, match="syntax error in pattern"):
        go_match(pattern, "nothing")


@pytest.mark.parametrize(
    ("patterns", "path", "matches"),
    [
        (["a**"], "a/b", True),
        (["**/b"], "b", True),
        (["**b"], "ab", True),
        (["x[**]y"], "x/y", True),  # the class holds what ** became
        (["[?]"], "/]", True),
        (["^a*"], "ab", True),
        (["a^*"], "a^", False),
        (["x\\d*"], "x5", True),
        (["[[:digit:]]*"], "5", True),
        (["[[:digit:]]]"], "5]", True),
        (["\\Qab"], "ab", False),  # \Q takes the final anchor too
        (["\\Qab"], "ab$c", True),
        (["*", "!a/b"], "a/b", False),
        (["*", "!a/b"], "a/c", True),
        (["*", "!a", "a/b"], "a/b", True),
        ([" a ", ""], "a", True),
        (["?"], "\udcff", True),
        (["\ufffd?"], "\udc80x", True),
    ],
)
def test_lists_match_as_go_would(patterns: list[str], path: str, matches: bool) -> None:
    assert PatternMatcher(patterns).matches_or_parent(path) is matches


def test_a_range_upside_down_is_an_error_only_once_it_is_tried() -> None:
    matcher = PatternMatcher(["a", "[z-a]", "b"])
    assert matcher.matches_or_parent("a")
    with pytest.raises(UsageError, match="syntax error in pattern"):
        matcher.matches_or_parent("b")


names = st.text("ab.", min_size=1, max_size=2)
patterns = st.lists(
    st.text("ab/*?!.", min_size=1, max_size=6).filter(lambda text: text != "!" and "!" not in text[1:]),
    max_size=5,
)


@given(patterns, st.lists(names, min_size=1, max_size=4))
def test_results_of_parents_stand_in_for_trying_each_parent(patterns: list[str], parts: list[str]) -> None:
    try:
        matcher = PatternMatcher(patterns)
    except UsageError:
        return
    matched, results = matcher.match_with_parents(parts[0], ())
    for end in range(2, len(parts) + 1):
        matched, results = matcher.match_with_parents("/".join(parts[:end]), results)
    expected, info = _plain(matcher, parts)
    assert (matched, any(results)) == (expected, any(info))


def _plain(matcher: PatternMatcher, parts: list[str]) -> tuple[bool, list[bool]]:
    """The rule as BuildKit states it: pattern by pattern, directory by directory."""
    info: list[bool] = []
    matched = False
    for end in range(1, len(parts) + 1):
        path, matched, parent, info = "/".join(parts[:end]), False, info, []
        for index, (text, exception) in enumerate(matcher.patterns):
            hit = bool(parent) and parent[index]
            if not hit and exception == matched:
                hit = PatternMatcher([text]).match_with_parents(path, [False])[0]
            info.append(hit)
            if hit:
                matched = not exception
    return matched, info


@given(st.text("ab/*", max_size=10), st.text("ab/\n", max_size=10))
def test_many_gaps_match_as_few_do(pattern: str, path: str) -> None:
    from inlay.golang import regexp as goregexp
    from inlay.golang.patterns import _rule

    rule = _rule(pattern)
    if rule is None or rule.kind != "regexp":
        return
    compiled = goregexp._compile_pieces(rule.pieces)
    simple = goregexp.compile_any([rule.pieces[:]])
    assert goregexp._match_pieces(compiled, path) == bool(simple(path))


def test_hostile_patterns_take_linear_time() -> None:
    matcher = PatternMatcher(["*a" * 20 + "b", "**/a/" * 20 + "c"])
    start = time.process_time()
    matcher.match_with_parents("a" * 4000, [False])
    matcher.match_with_parents("a/" * 2000, [False])
    go_match("*a" * 20 + "b", "a" * 4000)
    assert time.process_time() - start < 2


def test_ignore_files_may_hold_any_bytes() -> None:
    assert parse_ignore(b"\xef\xbb\xbf# x\n /a/../b \r\n!  /c\n!\n\xff\n") == ["b", "!c", "!", "\udcff"]
