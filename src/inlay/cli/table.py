"""Tables for terminals and pipes: columns as wide as they must be, two spaces apart."""

from __future__ import annotations

import time

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """`rows` as lines; the columns `right` are flush right, and the last column is never filled up."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def ago(then: float, now: float | None = None) -> str:
    """How long ago it was, in one unit: `3 minutes ago`."""
    if not then:
        return "never"
    seconds = max(0.0, (time.time() if now is None else now) - then)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now" if seconds < 10 else f"{int(seconds)} seconds ago"


def short(identity: str) -> str:
    """A digest, key or path in a few characters."""
    if identity.startswith("/"):
        return identity.rpartition("/")[2]
    return identity.partition(":")[2][:12] if identity.startswith("sha") else identity
