"""timestamp: what Go would read as a time, and what it would not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.golang.timestamp import GO_ZERO, format_ns, is_time, parse_ns

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.integers(0, 2**62))
def test_what_is_written_is_read_again(ns: int) -> None:
    assert is_time(format_ns(ns))
    assert parse_ns(format_ns(ns)) == ns


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-18 * 60, 18 * 60))
def test_a_time_of_another_zone_is_the_same_time(moment: datetime, minutes: int) -> None:
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    try:
        local = (moment + timedelta(minutes=minutes)).replace(tzinfo=None)
    except OverflowError:
        return
    text = f"{local.isoformat()}{sign}{hours:02}:{rest:02}"
    assert parse_ns(text) == (moment - EPOCH) // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-01-02",
        "2026-00-02T03:04:05Z",
        "2026-13-02T03:04:05Z",
        "2026-01-32T03:04:05Z",
        "2026-01-02T24:04:05Z",
        "2026-01-02T03:60:05Z",
        "2026-01-02T03:04:61Z",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05Z\n",
        "\u0662\u0660\u0662\u0666-01-02T03:04:05Z",
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_ns(text) is None
    assert not is_time(text)


@given(
    st.text("0123456789.:-+TZ", max_size=36) | st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    st.data(),
)
def test_a_look_at_the_shape_says_what_reading_would(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, max(len(text) - 1, 0)))
        text = text[:at] + data.draw(st.sampled_from("0123459.:-+TZ\u0663\ud800")) + text[at + 1 :]
    assert is_time(text) == (parse_ns(text) is not None)


def test_gos_zero_is_a_time() -> None:
    assert is_time(GO_ZERO)
    assert parse_ns(GO_ZERO) == -62135596800 * 10**9
