"""Comparing what inlay does with what BuildKit was recorded to do.

A kind is a function: it takes one record and what lies beside it, and returns the pair (recorded, actual) of
plain JSON values that must be equal. `KINDS` names the kinds by a text that file names contain. `FOLDERS`
names the kinds of case folders by a file that such a folder holds; each yields any number of named pairs.
A new kind is a function and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vectors import cache_cases, frontend, text
from vectors.surroundings import Surroundings

Pair = tuple[Any, Any]
Kind = Callable[[dict[str, Any], Surroundings], Pair]
FolderKind = Callable[[Path], Iterator[tuple[str, Pair]]]

KINDS: dict[str, Kind] = {
    "ast": text.ast,
    "cache-exports": cache_cases.exports,
    "feature": frontend.conversion,
    "fuzz": frontend.conversion,
    "unit-giturl": text.giturl,
    "unit-ignore": text.ignore,
    "unit-platform": text.platform,
    "unit-ref": text.reference,
    "unit-shlex": text.shlex,
}
FOLDERS: dict[str, FolderKind] = {
    "keys.json": cache_cases.folder,
}
