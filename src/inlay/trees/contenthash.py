"""BuildKit's content digest of an input: what a step reads of a tree, so that equal content is a cache hit.

A selector names a path, or chooses among what lies below one by wildcard, include and exclude patterns.
BuildKit: cache/contenthash/checksum.go, solver/llbsolver/ops/opsutils/contenthash.go.
"""

from __future__ import annotations

import os
import stat as mode_bits

from inlay.digest import EMPTY, Digest
from inlay.errors import SourceError
from inlay.golang.patterns import PatternMatcher, clean, go_match
from inlay.trees.tree import reason, shown
from inlay.trees.treedigest import folder_digest, leaf_digest, not_found, tree_digest
from inlay.trees.walking import has_exceptions, leads_on, may_match_below, split_wildcards
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.llb.keys import ContentSelector
    from inlay.trees.tree import Entry, Folder, Tree


def content_digest(tree: Tree | None, selectors: Sequence[ContentSelector]) -> Digest:
    """Digest what `selectors` choose from `tree` (None: scratch), in their order.

    Raises `SourceError` where a path does not exist or a file cannot be read, `UsageError` for a pattern
    that is malformed.
    """
    try:
        return Digest.of("\0".join([selected_digest(tree, selector) for selector in selectors]))
    except OSError as error:
        raise SourceError(
            f"cannot read {shown(os.fsdecode(error.filename or ''))}: {reason(error)}"
        ) from error


def selected_digest(tree: Tree | None, selector: ContentSelector) -> str:
    """Digest what one selector chooses."""
    path = absolute(selector.path)
    if tree is None:
        if path == "/":
            return EMPTY
        raise SourceError(f"{shown(path)}: no such file or directory")
    if not (selector.wildcard or selector.include_patterns or selector.exclude_patterns):
        return tree_digest(tree, path, follow_links=selector.follow_links)
    chosen = _Chosen(tree, selector)
    prefix = chosen.by_wildcard(path) if selector.wildcard else chosen.below(path)
    found = tree.chosen[selector] = chosen.found
    for required in selector.required_paths:
        if not any(name.startswith(required) for name, _ in found):
            raise not_found(required)
    if not found:
        return EMPTY
    if len(found) == 1 and _base(path) == _base(found[0][0]):
        return found[0][1]
    keys = [(name[len(prefix) :].replace("/", "\0") or "\0", digest) for name, digest in found]
    return Digest.of(os.fsencode("".join([key + digest for key, digest in keys])))


def absolute(path: str) -> str:
    """`path` from the root on, cleaned by its text alone."""
    return clean("/" + path)


def _base(path: str) -> str:
    return path.rpartition("/")[2]


class _Header(NamedTuple):
    """A folder on the way to what may be chosen; its own digest may be wanted only for what is below."""

    path: str
    folder: Folder
    stat: os.stat_result
    included: Sequence[bool]
    excluded: Sequence[bool]
    above: _Header | None


class _Chosen:
    """Collects what a selector with wildcards or patterns chooses: (path, digest) in the tree's order.

    A folder counts with its header alone. Paths are as the selector spells them, though links may lead
    to where it starts.
    """

    __slots__ = ("_added", "_exclude", "_follow", "_include", "_tree", "found")

    def __init__(self, tree: Tree, selector: ContentSelector) -> None:
        self._tree = tree
        self._follow = selector.follow_links
        self._include = PatternMatcher(selector.include_patterns) if selector.include_patterns else None
        self._exclude = PatternMatcher(selector.exclude_patterns) if selector.exclude_patterns else None
        self._added: set[str] = set()
        """Folders that are in."""
        self.found: list[tuple[str, str]] = []

    def below(self, path: str) -> str:
        """Choose by patterns from `path`; return the part of the found paths that is not hashed."""
        if path == "/":
            with self._tree.root() as root:
                for name, stat, state in self._tree.entries(root):
                    self._visit(root, (name, stat, state), "/" + name, name, None)
            return ""
        with self._tree.resolve(path, follow_last=False) as place:
            if place.stat is not None and place.parent is not None:
                self._visit(place.parent, (place.name, place.stat, place.state), path, "", None)
        return path

    def by_wildcard(self, pattern: str) -> str:
        """Choose what matches `pattern`, and by patterns what is below that; return as `below` does."""
        start, _ = split_wildcards(pattern)
        start = "" if start == "/" else start
        with self._tree.resolve(start, follow_last=True) as place:
            if place.is_folder:
                with self._tree.enter_place(place) as folder:
                    self._seek(folder, start, pattern)
        return start

    def _seek(self, folder: Folder, path: str, pattern: str) -> None:
        for entry in self._tree.entries(folder):
            name, stat, state = entry
            here = f"{path}/{name}"
            if go_match(pattern, here):
                self._visit(folder, entry, here, "", None)
            elif mode_bits.S_ISDIR(stat.st_mode) and leads_on(pattern, here):
                with self._tree.enter(folder, name, state) as inner:
                    self._seek(inner, here, pattern)

    def _visit(self, folder: Folder, entry: Entry, path: str, candidate: str, above: _Header | None) -> None:
        """Look at one object and all below it. `candidate` is what patterns are to match."""
        name, stat, state = entry
        included: Sequence[bool] = ()
        excluded: Sequence[bool] = ()
        is_in = True
        if self._include:
            is_in, included = self._include.match_with_parents(candidate, above.included if above else ())
        is_out = False
        if is_in and self._exclude:
            is_out, excluded = self._exclude.match_with_parents(candidate, above.excluded if above else ())
        if not mode_bits.S_ISDIR(stat.st_mode):
            if is_in and not is_out:
                self._add_folders(above)
                self.found.append((path, self._leaf(folder, entry, path, above)))
            return
        if is_out and not has_exceptions(self._exclude):
            return
        if not is_in and not may_match_below(self._include, candidate):
            return
        with self._tree.enter(folder, name, state) as inner:
            header = _Header(path, inner, stat, included, excluded, above)
            if is_in and not is_out:
                self._add_folders(header)
            for child in self._tree.entries(inner):
                below = f"{candidate}/{child[0]}" if candidate else child[0]
                self._visit(inner, child, f"{path}/{child[0]}", below, header)

    def _add_folders(self, header: _Header | None) -> None:
        """Add a folder's own object after those above it that are not in yet."""
        missing = []
        while header and header.path not in self._added:
            missing.append(header)
            header = header.above
        for one in reversed(missing):
            self._added.add(one.path)
            self.found.append((one.path, folder_digest(self._tree, one.folder, one.stat)))

    def _leaf(self, folder: Folder, entry: Entry, path: str, above: _Header | None) -> str:
        """The digest of what is no folder; where a walk starts, that of a link's target."""
        name, stat, _ = entry
        if above is None and self._follow and mode_bits.S_ISLNK(stat.st_mode):
            return tree_digest(self._tree, path, follow_links=True)
        return leaf_digest(self._tree, folder, name, stat)
