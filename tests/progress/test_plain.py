"""progress.plain: BuildKit's lines."""

from __future__ import annotations

import io
import re

from inlay.progress.events import Completed, Log, Started, Transfer, Warned
from inlay.progress.plain import PlainSink, size_text, whole_lines


def lines_of(*events: object) -> str:
    out = io.StringIO()
    sink = PlainSink(out)
    for event in events:
        sink(event)  # type: ignore[arg-type]
    return out.getvalue()


def test_a_line_may_come_in_any_number_of_pieces() -> None:
    partial = bytearray()
    pieces = [b"a", b"b\nc", b"", b"d\n\ne\n", b"f"]
    assert [whole_lines(partial, piece) for piece in pieces] == [[], [b"ab"], [], [b"cd", b"", b"e"], []]
    assert partial == b"f"


def test_the_output_of_a_step_is_shown_line_by_line_with_its_time() -> None:
    text = lines_of(
        Started("a", "[build 2/4] RUN make", 10.0),
        Log("a", 1, b"one\ntw", 10.5),
        Log("a", 1, b"o\nhalf", 11.0),
        Completed("a", 12.25),
    )
    assert text == "#1 [build 2/4] RUN make\n#1 0.500 one\n#1 1.000 two\n#1 2.250 half\n#1 DONE 2.2s\n"


def test_cached_error_and_cancelled() -> None:
    text = lines_of(
        Started("a", "[1/2] RUN a", 0.0),
        Completed("a", 0.0, cached=True),
        Started("b", "[2/2] RUN b", 0.0),
        Completed("b", 1.0, error="exit code: 1"),
        Started("c", "c", 1.0),
        Completed("c", 1.0, cancelled=True),
    )
    assert re.findall(r"^#\d+ (?:CACHED|CANCELED|ERROR.*)$", text, re.M) == [
        "#1 CACHED",
        "#2 ERROR: exit code: 1",
        "#3 CANCELED",
    ]


def test_output_of_another_step_waits_for_its_turn() -> None:
    text = lines_of(
        Started("a", "A", 0.0),
        Started("b", "B", 0.0),
        Log("b", 1, b"from b\n", 1.0),
        Log("a", 1, b"from a\n", 1.5),
        Completed("a", 2.0),
        Completed("b", 3.0),
    )
    assert text == "#1 A\n#1 1.500 from a\n#1 DONE 2.0s\n\n#2 B\n#2 1.000 from b\n#2 DONE 3.0s\n"


def test_a_step_that_talks_for_long_lets_others_speak() -> None:
    text = lines_of(Started("a", "A", 0.0), Started("b", "B", 0.0), Log("b", 1, b"late\n", 6.0))
    assert text == "#1 A\n#1 ...\n\n#2 B\n#2 6.000 late\n"


def test_transfers_and_warnings() -> None:
    text = lines_of(
        Started("a", "A", 0.0),
        Transfer("a", "sha256:abc", 1_050_000, 2_100_000, 0.0, 0.5, done=False),
        Transfer("a", "sha256:abc", 2_100_000, 2_100_000, 0.0, 1.0, done=True),
        Warned("a", "odd"),
        Completed("a", 1.0),
    )
    assert (
        "#1 sha256:abc 1.05MB / 2.10MB 0.5s\n#1 sha256:abc 2.10MB / 2.10MB 1.0s done\n#1 WARN: odd\n" in text
    )


def test_sizes_have_the_unit_that_fits() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 1_234_567, 5 * 10**12)] == [
        "0B",
        "999B",
        "1.00kB",
        "1.23MB",
        "5.00TB",
    ]
