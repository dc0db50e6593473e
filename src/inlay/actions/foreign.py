"""Steps for another platform: said beforehand where they cannot run, rather than "exec format error"."""

from __future__ import annotations

import stat

from inlay.errors import SolveError, SourceError
from inlay.platform import host, normalise
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.platform import Platform
    from inlay.trees.tree import Tree


def check_runnable(root: Tree, program: str, platform: Platform) -> None:
    """Raise `SolveError` that says what to install where a step for `platform` cannot run here.

    What counts is what `program` is a program for, where `root` has it at that path.
    """
    here, platform = host(), normalise(platform)
    if (platform.os, platform.architecture) == (here.os, here.architecture):
        return
    from inlay.executor.binfmt import architecture_of, registrations, why_not_runnable

    architecture = architecture_of(_head(root, program)) or platform.architecture
    if architecture != platform.architecture:
        platform = platform._replace(architecture=architecture, variant="")
    reason = why_not_runnable(platform, registrations(), lambda path: _head(root, path) != b"")
    if reason:
        raise SolveError(reason)


def _head(root: Tree, path: str) -> bytes:
    """The first bytes of the file at `path`; none of what is no file."""
    try:
        with root.resolve(path, follow_last=True) as place:
            if place.stat is None or place.parent is None or not stat.S_ISREG(place.stat.st_mode):
                return b""
            with open(root.open(place.parent, place.name), "rb") as file:
                return file.read(64)
    except (OSError, SourceError):
        return b""
