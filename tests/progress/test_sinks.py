"""The other sinks: terminal, JSON lines, quiet, and the last words."""

from __future__ import annotations

import io
import json

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
