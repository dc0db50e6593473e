"""progress.explained: the report of --explain."""

from __future__ import annotations

from inlay.progress.explained import explanation_text
from inlay.request import Change, Explanation, StepOutcome


def step(*changes: Change, outcome: str = "ran", reason: str = "because") -> StepOutcome:
    return StepOutcome(
        "[2/3] RUN x", outcome, "sha256:1", "Dockerfile:2", Explanation((reason,), tuple(changes))
    )


def lines(*changes: Change) -> list[str]:
    return explanation_text([step(*changes)]).splitlines()[5:-1]


def test_a_block_for_each_step_that_ran() -> None:
    cached = StepOutcome("[1/3] COPY a /", "cached", "sha256:0", "Dockerfile:1")
    assert explanation_text([cached, step(Change("f", "1", "2")), step()]) == (
        "\nWhy steps ran\n\n"
        "  Dockerfile:2  [2/3] RUN x\n    because\n      ~ f: 1 → 2\n\n"
        "  Dockerfile:2  [2/3] RUN x\n    because\n\n"
    )
    assert explanation_text([cached]) == "\nEvery step was cached (1 of 1).\n\n"
    assert "Why steps would have to run" in explanation_text([step(outcome="missing")])


def test_a_sign_tells_new_gone_and_changed() -> None:
    assert lines(Change("a", "", "new"), Change("b", "old", ""), Change("c", "1", "2")) == [
        "      + a: new",
        "      - b: old",
        "      ~ c: 1 → 2",
    ]


def test_what_both_sides_say_is_said_once_of_files_only() -> None:
    assert lines(Change("f", "mode 0644", "mode 0755"), Change("command", "cat a", "cat b")) == [
        "      ~ f: mode 0644 → 0755",
        "      ~ command: cat a → cat b",
    ]


def test_long_values_are_cut_to_what_differs() -> None:
    words = " ".join(f"word{n}" for n in range(40))
    assert lines(Change("command", f"{words} old {words}", f"{words} new {words}")) == [
        "      ~ command:",
        "        - … word36 word37 word38 word39 old word0 word1 word2 word3 …",
        "        + … word36 word37 word38 word39 new word0 word1 word2 word3 …",
    ]
    longer = f"{words} at the end"
    assert lines(Change("command", words, longer))[1:] == [
        "        - … word36 word37 word38 word39",
        "        + … word36 word37 word38 word39 at the end",
    ]


def test_many_files_become_folders() -> None:
    many = [Change(f"node_modules/p{n % 50}/f{n}", "", "1 byte") for n in range(1000)]
    assert lines(Change("app.js", "1", "2"), *many) == [
        "      ~ app.js",
        "      + node_modules/ (1000 files)",
    ]


def test_many_files_in_one_place_are_counted() -> None:
    many = [Change(f"f{n}", "", "1 byte") for n in range(30)]
    assert len(lines(*many)) == 11
    assert lines(*many)[-1] == "      ~ … and 20 more"


def test_control_characters_do_not_reach_the_terminal() -> None:
    text = explanation_text([step(Change("\x1b[31mred\udcff", "", "\x1b]0;title\x07"))])
    assert "\x1b" not in text
    assert "\x07" not in text


def test_colours_only_where_asked_for() -> None:
    assert "\033[33m~\033[0m" in explanation_text([step(Change("c", "1", "2"))], colour=True)
