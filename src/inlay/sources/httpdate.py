"""Dates as HTTP has them: three forms to read, of which one is written (RFC 9110, 5.6.7; Go: net/http.ParseTime)."""

from __future__ import annotations

import re
import time

from inlay.golang.timestamp import days_before

_CLOCK = r"(\d\d):(\d\d):(\d\d)"
_SHAPES = (
    re.compile(rf"(?:mon|tue|wed|thu|fri|sat|sun), (\d\d) ([a-z]{{3}}) (\d{{4}}) {_CLOCK} gmt\Z", re.ASCII),
    re.compile(
        rf"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (\d\d)-([a-z]{{3}})-(\d\d) {_CLOCK} [a-z]{{3,4}}\Z",
        re.ASCII,
    ),
    re.compile(rf"(?:mon|tue|wed|thu|fri|sat|sun) ([a-z]{{3}})  ?(\d{{1,2}}) {_CLOCK} (\d{{4}})\Z", re.ASCII),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def parse_http_date(text: str) -> int | None:
    """Seconds since the epoch; None for what is no date."""
    matches = [shape.match(text.lower()) for shape in _SHAPES]
    if matches[2]:
        name, day, *clock, year_text = matches[2].groups()
    elif match := matches[0] or matches[1]:
        day, name, year_text, *clock = match.groups()
    else:
        return None
    if name not in _MONTHS:
        return None
    month, year = _MONTHS.index(name), int(year_text)
    if matches[1]:
        year += 1900 if year >= 69 else 2000
    start = days_before(year, month + 1)
    days = days_before(year + (month + 1) // 12, (month + 1) % 12 + 1) - start
    hour, minute, second = map(int, clock)
    if not (1 <= int(day) <= days and hour < 24 and minute < 60 and second < 60):
        return None
    return ((start + int(day) - 1) * 24 + hour) * 3600 + minute * 60 + second


def format_http_date(seconds: int) -> str:
    """Write a time.

    >>> format_http_date(1709288430)
    'Fri, 01 Mar 2024 10:20:30 GMT'
    """
    t = time.gmtime(seconds)
    clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    month = _MONTHS[t.tm_mon - 1].capitalize()
    return f"{_WEEKDAYS[t.tm_wday]}, {t.tm_mday:02} {month} {t.tm_year:04} {clock} GMT"
