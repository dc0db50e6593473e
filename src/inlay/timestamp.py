"""Times as Go writes them in JSON: RFC 3339 with up to nine digits of a second, trailing zeros cut."""

from __future__ import annotations

import re
import time

_SHAPE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:Z|([+-])(\d\d):(\d\d))\Z"
)

GO_ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: what BuildKit writes where it has lost a time."""


def format_ns(ns: int) -> str:
    """Write nanoseconds since the epoch, in UTC.

    >>> format_ns(1_700_000_000_120_000_000)
    '2023-11-14T22:13:20.12Z'
    """
    seconds, fraction = divmod(ns, 10**9)
    t = time.gmtime(seconds)
    text = f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    digits = f"{fraction:09}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def parse_ns(text: str) -> int | None:
    """Nanoseconds since the epoch, of any zone; None for what is no such time."""
    match = _SHAPE.match(text)
    if not match:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
        return None
    seconds = ((days_before(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second
    if match[8]:
        offset = int(match[9]) * 3600 + int(match[10]) * 60
        seconds += -offset if match[8] == "+" else offset
    return seconds * 10**9 + int((match[7] or "").ljust(9, "0"))


def now_ns() -> int:
    return time.time_ns()


def days_before(year: int, month: int) -> int:
    """Days from 1970-01-01 to the first of `month`. Importing calendar or datetime for this costs more
    than the rest of a cached build's parsing."""
    months = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    y = year - 1
    return y * 365 + y // 4 - y // 100 + y // 400 - 719162 + months[month - 1] + (leap and month > 2)
