"""Lines of a Dockerfile, shown with an error or a warning (BuildKit: solver/errdefs/source.go)."""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.errors import Location

_LONGEST = 400
_RULE = "-" * 20


def excerpt(dockerfile: bytes, location: Location | None) -> str:
    """The lines around `location`, those it means marked; empty where there is none such. No line end at the end."""
    lines = dockerfile.decode(errors="replace").split("\n")
    if location is None or not 1 <= location.first_line <= len(lines):
        return ""
    first, last = location.first_line, min(location.last_line, len(lines))
    start, end = _surroundings(first, last, len(lines))
    shown = [
        f" {number:3d} | {'>>>' if first <= number <= last else '   '} {lines[number - 1][:_LONGEST]}"
        for number in range(start, end + 1)
    ]
    return "\n".join([str(location), _RULE, *shown, _RULE])


def _surroundings(first: int, last: int, count: int) -> tuple[int, int]:
    """A line or two more on both sides; near an end of the file more on the other side."""
    padding = 4 if first == last else 2
    added = 0
    while added < padding:
        if first > 1:
            first -= 1
            added += 1
        if last < count:
            last += 1
            added += 1
        added += 1
    return first, last
