"""The other sinks: terminal, JSON lines, quiet, and the last words."""

from __future__ import annotations

import io
import json
import time
import unicodedata

import pytest

from inlay.progress.events import Completed, Log, Started, Warned
from inlay.progress.quiet import QuietSink
from inlay.progress.rawjson import RawJsonSink
from inlay.progress.summary import last_line
from inlay.progress.tty import TtySink
from inlay.request import BuildResult, StepOutcome

STORY = (
    Started("a", "[1/2] RUN a", 1.0),
    Log("a", 1, b"hello\n", 1.5),
    Warned("", "careful"),
    Completed("a", 2.0, error="exit code: 1"),
)


def test_terminal_shows_the_output_of_a_failed_step_and_erases_the_live_part() -> None:
    out = io.StringIO()
    sink = TtySink(out, colour=False)
    for event in STORY:
        sink(event)
    text = out.getvalue()
    assert "    hello\n" in text.rpartition("\x1b[J")[2]
    assert "ERROR: exit code: 1" in text
    assert " ! careful" in text


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (b"a\tb", "a       b"),
        (b"\x1b[1;32mgreen\x1b[0m", "green"),
        (b"\x1b[2J\x1b[Hgone", "gone"),
        (b"\x1b]0;title\x07x", "\\x1b]0;title\\x07x"),
        (b"a\x0bb\x0cc", "a\\x0bb\\x0cc"),
        ("日本".encode(), "日本"),
    ],
)
def test_a_terminal_obeys_nothing_that_a_step_writes(output: bytes, shown: str) -> None:
    for error in ("", "exit code: 1"):
        out = io.StringIO()
        sink = TtySink(out, colour=False)
        sink(Started("a", f"[a] RUN {output.decode()}", 0.0))
        sink(Log("a", 1, output + b"\n" + output, 0.0))
        sink(Started("b", "another, so that it is drawn", 0.0))
        sink(Completed("a", 1.0, error=error))
        text = out.getvalue().replace("\x1b[J", "").replace("F", "")
        assert f"    {shown}\n" in text
        assert f"[a] RUN {shown}" in text
        assert {c for c in text if not c.isprintable()} <= {"\n", "\x1b"}
        assert text.count("\x1b[") == text.count("\x1b")


def columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


@pytest.mark.parametrize("line", ["x" * 200, "\t" * 50, "日本" * 60, "e\u0301" * 100, "日" + "x" * 200])
def test_no_line_that_is_drawn_anew_takes_two_rows(line: str) -> None:
    out = io.StringIO()  # of 80 columns
    sink = TtySink(out, colour=False)
    sink(Started("a", line, time.time()))
    sink(Log("a", 1, line.encode() + b"\n", 0.0))
    sink(Started("b", "another, so that it is drawn", time.time()))
    drawn = out.getvalue().rpartition("\x1b[J")[2].splitlines()
    assert len(drawn) == 3
    for row in drawn:
        assert columns(row) < 80
    assert columns(drawn[0]) == columns(drawn[2])


def test_json_lines_have_buildkits_shape() -> None:
    out = io.StringIO()
    sink = RawJsonSink(out)
    for event in STORY:
        sink(event)
    started, log, warning, completed = map(json.loads, out.getvalue().splitlines())
    assert started["vertexes"] == [{"digest": "a", "name": "[1/2] RUN a", "started": "1970-01-01T00:00:01Z"}]
    assert log["logs"][0]["data"] == "aGVsbG8K"
    assert warning["warnings"][0]["short"] == "Y2FyZWZ1bA=="
    assert completed["vertexes"][0]["error"] == "exit code: 1"


def test_quiet_says_nothing_of_what_goes_well() -> None:
    out = io.StringIO()
    sink = QuietSink(out)
    sink(Started("a", "A", 0.0))
    sink(Log("a", 1, b"noise\n", 0.0))
    sink(Completed("a", 1.0))
    assert out.getvalue() == ""
    for event in STORY[:2] + STORY[3:]:
        sink(event)
    assert out.getvalue() == "[1/2] RUN a\nhello\n"


def test_last_line_counts_steps_and_bytes() -> None:
    steps = (StepOutcome("a", "cached", "x"), StepOutcome("b", "ran", "y"), StepOutcome("c", "cached", "z"))
    result = BuildResult("sha256:1", "sha256:2", steps, 1_050_000, 12)
    assert last_line(result) == "sha256:1 · 2 steps cached, 1 run · 1.05MB pulled, 12B pushed"
