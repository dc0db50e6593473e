from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inlay.dockerfile.suggest import suggest


def test_the_nearest_is_suggested() -> None:
    assert suggest("bild", ["base", "build", "built"]) == "build"
    assert suggest("biuld", ["test", "build"]) == "build"


def test_nothing_far_away_is_suggested() -> None:
    assert suggest("deploy", ["base", "build"]) == ""


def test_an_exact_option_needs_no_suggestion() -> None:
    assert suggest("base", ["bas", "base"]) == ""


def test_the_case_follows_the_word() -> None:
    assert suggest("FORM", ["from"], case_sensitive=False) == "FROM"
    assert suggest("Form", ["FROM"], case_sensitive=False) == "from"
    assert suggest("FORM", ["from"]) == ""


def _distance(left: str, right: str) -> int:
    if not left or not right:
        return len(left) + len(right)
    replaced = _distance(left[1:], right[1:]) + (left[0] != right[0])
    return min(replaced, _distance(left[1:], right) + 1, _distance(left, right[1:]) + 1)


@given(st.text("ab", max_size=5), st.text("ab", max_size=5))
def test_distances_below_three_are_near(left: str, right: str) -> None:
    assert bool(suggest(left, [right])) == (0 < _distance(left, right) < 3 and right != "")
