"""The lines of a /etc/passwd or /etc/group. What one says is for those who read it, who follow different programs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def entries(text: str) -> Iterator[list[str]]:
    """The fields of each line, without blanks around it. A comment is one like any other: its first begins with `#`."""
    for line in text.split("\n"):
        if stripped := line.strip():
            yield stripped.split(":")
