"""Walking through a tree with patterns: what they name, and what need not be looked at for them."""

from __future__ import annotations

import stat as mode_bits

from inlay.errors import SolveError, UsageError
from inlay.golang.patterns import clean, go_match, has_wildcard, join
from inlay.trees.tree import shown
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inlay.golang.patterns import PatternMatcher
    from inlay.trees.tree import Folder, Tree


def split_wildcards(path: str) -> tuple[str, str]:
    """The leading components of `path` without `*`, `?` or `[`, and the others; cleaned.

    BuildKit: cache/contenthash/checksum.go, vendor/github.com/tonistiigi/fsutil/copy/copy.go.
    """
    parts = (clean(path) if path else "").split("/")
    plain = next((at for at, part in enumerate(parts) if has_wildcard(part)), len(parts))
    return join(*(part or "/" for part in parts[:plain])), join(*parts[plain:])


def glob(tree: Tree, pattern: str, *, follow_links: bool) -> Iterator[str]:
    """The paths in `tree` that `pattern` names, in order; one below another is left out.

    `pattern` itself where it has no wildcards, whether it exists or not.
    """
    start, rest = split_wildcards(pattern)
    if not rest:
        yield start
        return
    with tree.resolve(start, follow_last=follow_links) as place:
        if place.stat is None:
            raise SolveError(f"lstat {shown(start)}: no such file or directory")
        if place.is_folder:
            with tree.enter_place(place) as folder:
                yield from _matches(tree, folder, rest, "")


def _matches(tree: Tree, folder: Folder, pattern: str, above: str) -> Iterator[str]:
    for name, stat, state in tree.entries(folder):
        path = f"{above}/{name}" if above else name
        if matches_quietly(pattern, path):
            yield f"{folder.path}/{name}"
        elif mode_bits.S_ISDIR(stat.st_mode) and leads_on(pattern, path):
            with tree.enter(folder, name, state) as inner:
                yield from _matches(tree, inner, pattern, path)


def matches_quietly(pattern: str, path: str) -> bool:
    """As `go_match`; but a malformed pattern matches nothing."""
    try:
        return go_match(pattern, path)
    except UsageError:
        return False


def leads_on(pattern: str, folder: str) -> bool:
    """Whether something below `folder` may match the shell pattern; both from the same place on.

    False only where that is sure: brackets may hold a slash.
    """
    if "[" in pattern or "\\" in pattern:
        return True
    depth = folder.count("/") + 1
    parts = pattern.split("/")
    return len(parts) > depth and go_match("/".join(parts[:depth]), folder)


def may_match_below(matcher: PatternMatcher | None, folder: str) -> bool:
    """Whether a folder that the list does not match may hold something that it does.

    BuildKit: vendor/github.com/tonistiigi/fsutil/filter.go.
    """
    if matcher is None:
        return True
    starts = [without_trailing_glob(pattern.text) for pattern in matcher.patterns if not pattern.exception]
    return _any_leads_into(starts, folder)


def may_except_below(matcher: PatternMatcher, folder: str) -> bool:
    """Whether a folder that the list matches may hold something that an exception takes back."""
    starts = [without_trailing_glob(pattern.text) for pattern in matcher.patterns if pattern.exception]
    return _any_leads_into(starts, folder)


def has_exceptions(matcher: PatternMatcher | None) -> bool:
    return matcher is not None and matcher.has_exceptions


def without_trailing_glob(pattern: str) -> str:
    return pattern.removesuffix("/**").removesuffix("/*")


def _any_leads_into(starts: list[str], folder: str) -> bool:
    """Whether one of `starts` lies below `folder`; or cannot be told, for its wildcards."""
    inside = folder + "/" if folder else ""
    return any(set(start) & set("*[]?^\\") or (start + "/").startswith(inside) for start in starts)
