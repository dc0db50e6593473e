"""A step's output is shown up to a limit, and its end when the step fails."""

from __future__ import annotations

import pytest

from inlay.actions.steplog import DEFAULT_LIMIT, StepLog, log_limit


def test_output_up_to_the_limit_is_passed_on_by_stream() -> None:
    shown: list[tuple[int, bytes]] = []
    log = StepLog(lambda *each: shown.append(each), 10)
    for stream, data in ((1, b"12345"), (2, b"abcdefghij"), (1, b"67890")):
        log.write(stream, data)
    log.show_held()
    assert shown == [(1, b"12345"), (2, b"abcdefghij"), (1, b"67890")]
    assert log.last == b"12345abcdefghij67890"


def test_what_exceeds_the_limit_is_held_and_its_end_shown_on_demand() -> None:
    shown: list[bytes] = []
    log = StepLog(lambda _, data: shown.append(data), 1024)
    log.write(1, b"a" * 1000)
    log.write(1, b"b" * 100)
    assert shown == [b"a" * 1000, b"b" * 24 + b"\n[output clipped, log limit 1KiB reached]\n"]
    for _ in range(100):
        log.write(1, b"c" * 10_000)
    log.write(1, b"the end")
    assert len(shown) == 2
    log.show_held()
    assert (len(shown[2]), shown[2][-8:]) == (256 << 10, b"cthe end")
    assert bytes(log.last[-8:]) == b"cthe end"


def test_without_a_limit_all_is_shown() -> None:
    shown: list[bytes] = []
    log = StepLog(lambda _, data: shown.append(data), -1)
    log.write(2, bytes(5 << 20))
    assert shown == [bytes(5 << 20)]


@pytest.mark.parametrize(
    ("text", "limit"), [("", DEFAULT_LIMIT), ("100", 100), ("-1", -1), ("x", DEFAULT_LIMIT)]
)
def test_the_limit_is_buildkits_variable(monkeypatch: pytest.MonkeyPatch, text: str, limit: int) -> None:
    monkeypatch.setenv("BUILDKIT_STEP_LOG_MAX_SIZE", text)
    assert log_limit() == limit
