"""What a file action is going to write, before anything is: one entry after another.

A plan looks at the tree it is for while it goes on, so each entry must be carried out before the next is
asked for. Whoever carries a plan out may write to a folder (`writing`), or note the entries and write them to
an archive (`noting`).
Paths are absolute in the tree, without links above their last part; `str`, as in `trees.tree`.
"""

from __future__ import annotations

import stat as mode_bits

from inlay.errors import SolveError
from inlay.trees.tree import shown
from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator, Mapping

    from inlay.archive.untar import TarReader
    from inlay.trees.sourcefile import SourceFile

    Plan = Generator["PlannedEntry", None, None]
    # It holds folders open where it stands: whoever does not read it to its end closes it.

FOLDER, FILE, SYMLINK, HARD_LINK, NODE, REMOVAL = "folder", "file", "symlink", "hard link", "node", "removal"

Owner = tuple[int, int]
"""uid and gid."""


class PlannedEntry(NamedTuple):
    """One thing to write. None for `mode`, `owner` or `times` is: leave it as it is, or comes by itself."""

    kind: str
    path: str
    mode: int | None = None
    """Permission bits, setuid, setgid and sticky; of a node with its type."""
    owner: Owner | None = None
    times: tuple[int, int] | None = None
    """atime and mtime, in nanoseconds. Those of a folder hold once all that is in it is written."""
    xattrs: Mapping[str, bytes] = {}
    content: SourceFile | bytes | TarReader | None = None
    """Of a file. A reader stands at the member whose data it is, until the next entry is asked for."""
    link: str = ""
    """The text of a symlink, or the path of the file that a hard link is one more name of."""
    device: int = 0
    replaces: bool = False
    """Something is at `path` that has to go first, with all that is in it."""
    exists: bool = False
    """The folder is there already."""


class Destination(Protocol):
    """The tree that a plan is for, as it is after the entries so far."""

    def resolve(self, path: str, *, below: str = "") -> str:
        """Where `path` leads, over links; what is missing is taken as it stands. Empty for the root.

        With `below` as in a chroot at that folder, which is resolved; the result still starts at the root.
        """

    def lstat(self, path: str) -> os.stat_result | None:
        """What is at a resolved path, or None."""

    def glob(self, pattern: str) -> list[str]:
        """The paths that `pattern` names, in order; itself where it has no wildcards."""


def plan_folders(
    destination: Destination, path: str, *, mode: int, owner: Owner | None, timestamp: int | None
) -> Iterator[PlannedEntry]:
    """Make the folder `path`, which is resolved, and those above it, where they are missing.

    BuildKit: vendor/github.com/tonistiigi/fsutil/copy/mkdir.go.
    """
    missing = []
    while path:
        there = destination.lstat(path)
        if there is not None:
            if not mode_bits.S_ISDIR(there.st_mode):
                raise SolveError(f"mkdir {shown(path)}: not a directory")
            break
        missing.append(path)
        path = path.rpartition("/")[0]
    times = None if timestamp is None else (timestamp, timestamp)
    for folder in reversed(missing):
        yield PlannedEntry(FOLDER, folder, mode=mode & 0o777, owner=owner, times=times)
