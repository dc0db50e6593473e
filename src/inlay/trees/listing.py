"""The files behind a content digest, so that a later build can say which of them changed.

A listing holds, for each path that the digest was made of, the parts of `stat` that count and the beginning
of its own digest. It is made from what the digesting left in the tree, and reads no file again.
"""

from __future__ import annotations

import os
import stat as mode_bits

from inlay.trees.contenthash import absolute
from inlay.trees.treedigest import settled
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from inlay.llb.keys import ContentSelector
    from inlay.trees.tree import Tree

MAX_FILES = 200_000
"""A selection of more files is not listed."""

_DIGEST_CHARS = 16


class File(NamedTuple):
    """One object. `digest` is the beginning of that of the object alone, a folder's without its content."""

    mode: int
    uid: int
    gid: int
    size: int
    digest: str


Listing = dict[str, File]
"""Files by path, as it is in the tree."""


class FileChange(NamedTuple):
    """What became of one path; None for what was, or is, not there."""

    path: str
    before: File | None
    after: File | None


def list_content(tree: Tree, selectors: Iterable[ContentSelector]) -> Listing | None:
    """What `selectors`, which were digested in `tree`, chose; None where those are too many files."""
    digests: dict[str, str] = {}
    for selector in selectors:
        for path, digest in _selected(tree, selector):
            digests[path] = digest
            if len(digests) > MAX_FILES:
                return None
    return dict(_described(tree, digests))


def _selected(tree: Tree, selector: ContentSelector) -> Iterator[tuple[str, str]]:
    if not selector.is_plain:
        yield from tree.chosen.get(selector, ())
        return
    with tree.resolve(absolute(selector.path), follow_last=selector.follow_links) as place:
        path = place.path
    if path in tree.parts:
        yield from _below(tree, path)
    elif path in tree.digests:
        yield path, tree.digests[path]


def _below(tree: Tree, path: str) -> Iterator[tuple[str, str]]:
    pending = [path]
    while pending:
        folder = pending.pop()
        for name, digest in tree.parts[folder]:
            if not name:
                yield folder, settled(digest)
            elif "\0" not in name:  # BuildKit's second look at some names (see `treedigest`)
                below = f"{folder}/{name}"
                if below in tree.parts:
                    pending.append(below)
                else:
                    yield below, settled(digest)


def _described(tree: Tree, digests: dict[str, str]) -> Iterator[tuple[str, File]]:
    """Look at each path once more; one that has gone meanwhile is left out."""
    by_folder: dict[str, list[str]] = {}
    for path in digests:
        by_folder.setdefault(path.rpartition("/")[0], []).append(path)
    for folder, paths in by_folder.items():
        try:
            fd = tree.open_folder(folder)
        except OSError:
            continue
        try:
            for path in paths:
                try:
                    stat = os.stat(path.rpartition("/")[2] or ".", dir_fd=fd, follow_symlinks=False)
                except OSError:
                    continue
                yield path, _file(tree, stat, digests[path])
        finally:
            os.close(fd)


def _file(tree: Tree, stat: os.stat_result, digest: str) -> File:
    size = stat.st_size if mode_bits.S_ISREG(stat.st_mode) else 0
    return File(stat.st_mode, *tree.owner(stat), size, digest.partition(":")[2][:_DIGEST_CHARS])


def changes(before: Listing, after: Listing) -> list[FileChange]:
    """What differs, by path."""
    return [
        FileChange(path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


# -- on disk -----------------------------------------------------------------------------------------------


def encode(listing: Listing) -> bytes:
    """`listing` as bytes: compressed lines `mode uid gid size digest path`, each ended by a zero byte."""
    import zlib

    lines = [f"{f.mode:o} {f.uid} {f.gid} {f.size} {f.digest} {path}\0" for path, f in listing.items()]
    return zlib.compress(os.fsencode("".join(lines)), 1)


def decode(data: bytes) -> Listing:
    """Read what `encode` wrote. Raises `ValueError` for anything else."""
    import zlib

    listing: Listing = {}
    try:
        text = os.fsdecode(zlib.decompress(data))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    for line in text.split("\0")[:-1]:
        mode, uid, gid, size, digest, path = line.split(" ", 5)
        listing[path] = File(int(mode, 8), int(uid), int(gid), int(size), digest)
    return listing
