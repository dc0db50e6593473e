"""The report of `--explain` and `--require-cached`: a block for each step that was not cached."""

from __future__ import annotations

from inlay.progress.plain import visible
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inlay.request import Change, StepOutcome

MAX_CHANGES = 10
"""Of more changes those below one folder become one line."""
MAX_WIDTH = 76
"""A change that does not fit into so many columns gets two lines."""
_CONTEXT = 24
_FILE_WORDS = ("mode", "owner", "content")
"""Of `mode 0644` and `mode 0755` one `mode` is enough."""
_SIGNS = {"+": "32", "-": "31", "~": "33"}


def explanation_text(steps: Sequence[StepOutcome], *, colour: bool = False) -> str:
    """The report, with a blank line before and after; one line where all steps were cached."""
    explained = [step for step in steps if step.explanation is not None]
    if not explained:
        cached = sum(step.outcome == "cached" for step in steps)
        return f"\nEvery step was cached ({cached} of {cached}).\n\n"
    missing = any(step.outcome == "missing" for step in explained)
    title = "Why steps would have to run" if missing else "Why steps ran"
    blocks = [_paint(title, "1", colour=colour)]
    blocks += ["\n".join(_block(step, colour=colour)) for step in explained]
    return "\n" + "\n\n".join(blocks) + "\n\n"


def _block(step: StepOutcome, *, colour: bool) -> Iterable[str]:
    place = f"{step.location}  " if step.location else ""
    yield f"  {place}{_paint(visible(step.name), '1', colour=colour)}"
    assert step.explanation is not None
    for reason in step.explanation.reasons:
        yield f"    {visible(reason)}"
    changes = step.explanation.changes
    folded = _fold(changes) if len(changes) > MAX_CHANGES else [_lines(change) for change in changes]
    for sign, *lines in folded:
        yield f"      {_paint(sign, _SIGNS[sign], colour=colour)} {lines[0]}"
        yield from (f"        {line}" for line in lines[1:])


def _lines(change: Change) -> list[str]:
    """The sign of a change, and its line or lines."""
    what, before, after = map(visible, change)
    if not before or not after:
        return ["+" if after else "-", f"{what}: {before or after}"]
    word = before.partition(" ")[0]
    once = after.removeprefix(f"{word} ") if word in _FILE_WORDS else after
    line = f"{what}: {before} → {once}"
    if len(line) <= MAX_WIDTH:
        return ["~", line]
    before, after = _differing(before, after)
    return ["~", f"{what}:", f"- {before}", f"+ {after}"]


def _differing(before: str, after: str) -> tuple[str, str]:
    """Both texts without what they begin and end alike with, but for a few words of it."""
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    first = max(0, before.rfind(" ", 0, max(0, start - _CONTEXT)) + 1)
    return _cut(before, first, len(before) - end), _cut(after, first, len(after) - end)


def _common(a: str, b: str) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _cut(text: str, first: int, last: int) -> str:
    last = min(len(text), max(last, first) + _CONTEXT)
    space = text.find(" ", last)
    last = space if 0 <= space < last + _CONTEXT else last
    if len(text) - last < _CONTEXT:
        last = len(text)
    return ("… " if first else "") + text[first:last] + (" …" if last < len(text) else "")


def _fold(changes: Sequence[Change]) -> list[list[str]]:
    """Changes by sign and folder: as deep a folder as keeps the report short."""
    entries = [(_lines(change)[0], change.what) for change in changes]
    for depth in range(max(what.count("/") for _, what in entries), -1, -1):
        groups: dict[tuple[str, str], int] = {}
        for sign, what in entries:
            folder = "/".join(what.split("/")[:depth]) + "/" if what.count("/") >= depth > 0 else what
            folder = visible(folder)
            groups[sign, folder] = groups.get((sign, folder), 0) + 1
        if len(groups) <= MAX_CHANGES or depth == 0:
            break
    lines = [
        [sign, name if count == 1 else f"{name} ({count} files)"] for (sign, name), count in groups.items()
    ]
    if len(lines) <= MAX_CHANGES:
        return lines
    return [*lines[:MAX_CHANGES], ["~", f"… and {len(lines) - MAX_CHANGES} more"]]


def _paint(text: str, code: str, *, colour: bool) -> str:
    return f"\033[{code}m{text}\033[0m" if colour else text
