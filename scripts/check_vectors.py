#!/usr/bin/env python3
"""Compare inlay with recorded behaviour of BuildKit.

    scripts/check_vectors.py [PATH…]

PATH is a file of records, whose kind is told by its name, or a folder that is searched for such files and
for cases; without PATH, tests/vectors. Prints one line per file and its first differences. Exits with 1 if
anything differs, with 2 if there is nothing to compare.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("src", "scripts", "tests")]

from vectors.surroundings import Surroundings, read_records  # noqa: E402

from vectors import FOLDERS, KINDS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vectors import Kind, Pair

SHOWN = 3
"""How many differences of a file are printed."""


def main(arguments: list[str]) -> int:
    items = [item for argument in arguments or [str(ROOT / "tests/vectors")] for item in find(Path(argument))]
    if not items:
        print("nothing to compare: no file or folder of a known kind", file=sys.stderr)
        return 2
    results = [report(item, compare(item)) for item in items]
    return 0 if all(results) else 1


def find(path: Path) -> Iterator[Path]:
    """The files and case folders of a known kind at or below `path`, in order."""
    if path.is_file():
        if kind_of(path):
            yield path
    elif any((path / marker).exists() for marker in FOLDERS):
        yield path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            yield from find(child)


def kind_of(path: Path) -> str:
    """The kind that a file's name contains, the longest if several do; empty if none."""
    if ".json" not in path.name:
        return ""
    return max((name for name in KINDS if name in path.name), key=len, default="")


def compare(path: Path) -> Iterator[tuple[str, Pair]]:
    """Yield for each record a name for it, and what was recorded and what inlay does."""
    if path.is_dir():
        for marker, folder_kind in FOLDERS.items():
            if (path / marker).exists():
                yield from attempt_all(folder_kind(path))
        return
    kind, around = KINDS[kind_of(path)], Surroundings(path)
    for number, record in enumerate(read_records(path), 1):
        yield str(record.get("id", f"line {number}")), attempt(kind, record, around)


def attempt(kind: Kind, record: dict[str, Any], around: Surroundings) -> Pair:
    """An exception that no kind expects is a difference, not the end of the comparison."""
    try:
        pair: Pair = kind(record, around)
    except Exception as error:
        return record, f"{type(error).__name__}: {error}"
    return pair


def attempt_all(pairs: Iterator[tuple[str, Pair]]) -> Iterator[tuple[str, Pair]]:
    """The pairs of a case; an exception is a difference, and the last one."""
    try:
        yield from pairs
    except Exception as error:
        yield "what follows", ("no error", f"{type(error).__name__}: {error}")


def report(path: Path, pairs: Iterable[tuple[str, Pair]]) -> bool:
    """Print how many records are equal and where the first others differ; return whether all are."""
    total, different = 0, []
    for name, (recorded, actual) in pairs:
        total += 1
        if recorded != actual:
            different.append((name, recorded, actual))
    print(f"{path}: {total - len(different)} of {total} equal")
    for name, recorded, actual in different[:SHOWN]:
        for place, ours, theirs in differences(recorded, actual):
            print(
                f"  {name} {place or '.'}\n    recorded {shortened(ours)}\n    actual   {shortened(theirs)}"
            )
    if len(different) > SHOWN:
        print(f"  … and {len(different) - SHOWN} more: {', '.join(name for name, *_ in different[SHOWN:13])}")
    return not different and total > 0


def differences(recorded: Any, actual: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The innermost places where two JSON values differ."""
    if recorded == actual:
        return
    if isinstance(recorded, dict) and isinstance(actual, dict):
        for key in sorted({*recorded, *actual}, key=str):
            yield from differences(recorded.get(key), actual.get(key), f"{place}.{key}")
    elif isinstance(recorded, list) and isinstance(actual, list) and len(recorded) == len(actual):
        for index, (ours, theirs) in enumerate(zip(recorded, actual, strict=True)):
            yield from differences(ours, theirs, f"{place}[{index}]")
    else:
        yield place, recorded, actual


def shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:300]} … {text[-80:]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
