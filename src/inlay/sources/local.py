"""A `local://` source: a build context, which is a folder of the user's, of which a part is in.

What is in is what BuildKit's client would send: not what `.dockerignore` excludes, and only what the
Dockerfile names. Owners are always 0:0. Nothing is copied, all is read in place, and no link is followed
out of the folder.
BuildKit: source/local, session/filesync, vendor/github.com/tonistiigi/fsutil/{fs,filter,followlinks,stat}.go.
"""

from __future__ import annotations

import errno
import os
import stat as mode_bits

from inlay import json
from inlay.digest import Digest
from inlay.errors import SourceError
from inlay.golang.patterns import PatternMatcher, clean, has_wildcard
from inlay.refs.ref import ContextRef
from inlay.tasks import in_thread
from inlay.trees.digestmemory import file_keys
from inlay.trees.tree import Entry, Folder, Tree, in_order, reason, shown
from inlay.trees.walking import matches_quietly, may_except_below, may_match_below
from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from inlay.llb.ops import SourceOp
    from inlay.trees.digestmemory import DigestMemory

_IN, _MAYBE, _OUT = "in", "perhaps for what is below", "out"


class LocalSource:
    """One `local://` op. Its key means something in this build only, so that no cache can hold it.

    `keep` is given each context that is opened, to be closed when nobody reads it any more.
    """

    def __init__(
        self,
        op: SourceOp,
        folders: Mapping[str, str],
        memory: DigestMemory | None,
        keep: Callable[[Tree], None],
    ) -> None:
        self._op = op
        self._name = op.identifier.partition("://")[2]
        self._folders = folders
        self._memory = memory
        self._keep = keep

    async def digests(self) -> tuple[str, ...]:
        return (f"random:{Digest.of(repr(self._op)).hex}",)

    async def fetch(self) -> ContextRef:
        return ContextRef(await in_thread(self._context), self._name)

    def _context(self) -> LocalContext:
        path = self._folders.get(self._name)
        if path is None:
            raise SourceError(f"no folder was given for the context {self._name}")
        context = LocalContext(
            path,
            exclude_patterns=_patterns(self._op, "local.excludepatterns") or (),
            include_patterns=_patterns(self._op, "local.includepattern") or (),
            follow_paths=_patterns(self._op, "local.followpaths"),
            memory=self._memory,
        )
        self._keep(context)
        return context


def _patterns(op: SourceOp, name: str) -> list[str] | None:
    text = op.attr(name)
    return json.loads(text) if text else None


class LocalContext(Tree):
    """The part of the folder `path` that is in; see the module.

    `follow_paths` are the paths that the Dockerfile names, with wildcards; None (or the root among them)
    is everything. Links on the way are in too, and what they lead to.
    """

    __slots__ = ("_exclude", "_include", "_noted", "_occupied", "_seen", "path")

    is_context = True

    def __init__(
        self,
        path: str,
        *,
        exclude_patterns: Sequence[str] = (),
        include_patterns: Sequence[str] = (),
        follow_paths: Sequence[str] | None = None,
        memory: DigestMemory | None = None,
    ) -> None:
        try:
            super().__init__(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise SourceError(f"cannot open the build context {shown(path)}: {reason(error)}") from error
        self.path = path
        self.memory = memory
        try:
            self._exclude = PatternMatcher(exclude_patterns) if exclude_patterns else None
            includes: Sequence[str] | None = include_patterns
            if follow_paths is not None and (followed := self._followed(follow_paths)) is not None:
                includes = _uncovered([*include_patterns, *followed])
            self._include = PatternMatcher(includes) if includes else None
        except BaseException:
            self.close()
            raise
        self._seen: dict[str, bytes] = {}
        """Files by their keys when they were first read: what is copied must be what was hashed."""
        self._noted: dict[str, tuple[list[str], list[bytes]]] = {}
        """Whole folders of them, not yet in `_seen`."""
        self._occupied: dict[str, bool] = {}
        """Folders that are in only if something in them is: whether it is."""

    def owner(self, stat: os.stat_result) -> tuple[int, int]:
        return 0, 0

    def xattrs_of(self, at: int | str) -> dict[str, bytes]:
        found = super().xattrs_of(at)
        return {name: found[name] for name in found if not name.startswith("com.apple.")} if found else found

    def unreadable(self, path: str, error: OSError) -> SourceError:
        advice = "; make it readable, or exclude it by .dockerignore" if error.errno == errno.EACCES else ""
        return SourceError(f"cannot read {shown(path)} of the build context: {reason(error)}{advice}")

    def note(self, folder: Folder, entries: list[Entry]) -> list[bytes]:
        keys = file_keys([entry[1] for entry in entries])
        if not self._seen and folder.path not in self._noted:
            self._noted[folder.path] = [entry[0] for entry in entries], keys
            return keys
        for (name, stat, _), key in zip(entries, keys, strict=True):
            if not mode_bits.S_ISDIR(stat.st_mode):
                self._check_unchanged(folder, name, key)
        return keys

    def check_unchanged(self, folder: Folder, name: str, stat: os.stat_result) -> None:
        self._check_unchanged(folder, name, file_keys([stat])[0])

    def _check_unchanged(self, folder: Folder, name: str, key: bytes) -> None:
        if folder.path in self._noted:
            for other, then in zip(*self._noted.pop(folder.path), strict=True):
                self._seen[f"{folder.path}/{other}"] = then
        path = f"{folder.path}/{name}"
        if self._seen.setdefault(path, key) != key:
            raise SourceError(f"{shown(path)} changed during the build; build again")

    def entry(self, folder: Folder, name: str) -> Entry | None:
        found = super().entry(folder, name)
        if found is None or (self._include is None and self._exclude is None):
            return found
        is_folder = mode_bits.S_ISDIR(found[1].st_mode)
        verdict, state = self._verdict(f"{folder.path}/{name}"[1:], folder.state, is_folder=is_folder)
        if verdict is _OUT or (verdict is _MAYBE and not self._is_occupied(folder, name, state)):
            return None
        return name, found[1], state

    def entries(self, folder: Folder) -> list[Entry]:
        if self._include is None and self._exclude is None:
            return super().entries(folder)
        found: list[Entry] = []
        for item, state in self._visible(folder):
            try:
                found.append((item.name, item.stat(follow_symlinks=False), state))
            except FileNotFoundError:
                continue  # it went away meanwhile
        return in_order(found)

    def _visible(self, folder: Folder) -> Iterator[tuple[os.DirEntry[str], object]]:
        prefix = folder.path[1:] + "/" if folder.path else ""
        with os.scandir(folder.fd) as items:
            for item in items:
                verdict, state = self._verdict(
                    prefix + item.name, folder.state, is_folder=item.is_dir(follow_symlinks=False)
                )
                if verdict is _IN or (verdict is _MAYBE and self._is_occupied(folder, item.name, state)):
                    yield item, state

    def _verdict(self, path: str, above: object, *, is_folder: bool) -> tuple[str, object]:
        """Whether `path` is in, and its state if it is a folder; `above` is the state of the folder it is in."""
        included: Sequence[bool] = ()
        excluded: Sequence[bool] = ()
        if above is not None:
            included, excluded = cast("tuple[Sequence[bool], Sequence[bool]]", above)
        verdict = _IN
        if self._include:
            is_in, included = self._include.match_with_parents(path, included)
            if not is_in:
                if not is_folder or not may_match_below(self._include, path):
                    return _OUT, None
                verdict = _MAYBE
        if self._exclude:
            is_out, excluded = self._exclude.match_with_parents(path, excluded)
            if is_out:
                if not is_folder or not may_except_below(self._exclude, path):
                    return _OUT, None
                verdict = _MAYBE
        return verdict, (included, excluded)

    def _is_occupied(self, folder: Folder, name: str, state: object) -> bool:
        """Whether something below a folder that is not in itself is in."""
        path = f"{folder.path}/{name}"
        known = self._occupied.get(path)
        if known is None:
            try:
                with self.enter(folder, name, state) as inner:
                    known = any(True for _ in self._visible(inner))
            except SourceError:  # a folder that cannot be read does no harm where it is not wanted
                known = False
            self._occupied[path] = known
        return known

    def _followed(self, paths: Sequence[str]) -> list[str] | None:
        """The include patterns that `paths` come to; None if all is in."""
        links = _Links(Tree(os.dup(self._fd)))
        try:
            for path in paths:
                links.follow(path)
        finally:
            links.close()
        return _uncovered(sorted(links.found, key=os.fsencode))


class _Links:
    """The paths that the Dockerfile's paths lead over and to, by the links on the way."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.found: set[str] = set()

    def close(self) -> None:
        self._tree.close()

    def follow(self, path: str) -> None:
        """Add `path`; where a part of it is a link, the path up to there, and follow what it becomes."""
        current = ""
        todo = clean("/" + path)[1:].split("/")
        for at, name in enumerate(todo):
            current = f"{current}/{name}" if current else name
            targets = self._targets(current)
            rest = "/".join(todo[at + 1 :])
            if (targets or not rest) and (current or ".") in self.found:
                return
            if targets or not rest:
                self.found.add(current or ".")
            for target in targets:
                self.follow(f"{target}/{rest}")
            if targets:
                return

    def _targets(self, path: str) -> list[str]:
        """Where the links lead that `path` names: itself, or what its last part's wildcards match."""
        above, _, name = path.rpartition("/")
        with self._tree.resolve(above, follow_last=False) as place:
            if not place.is_folder or not name:
                return []
            with self._tree.enter_place(place) as folder:
                if has_wildcard(name):
                    names = [item for item, _, _ in self._tree.entries(folder) if matches_quietly(name, item)]
                else:
                    names = [name]
                links = [self._link(folder, item) for item in names]
        return [clean(link if link.startswith("/") else f"/{above}/{link}") for link in links if link]

    def _link(self, folder: Folder, name: str) -> str:
        """The text of the link `name`; empty if it is none."""
        entry = self._tree.entry(folder, name)
        return self._tree.target(folder, name) if entry and mode_bits.S_ISLNK(entry[1].st_mode) else ""


def _uncovered(paths: Iterable[str]) -> list[str] | None:
    """Drop what lies below the path before it; None if the root is among `paths`."""
    kept: list[str] = []
    for path in paths:
        if path == ".":
            return None
        if not kept or not path.startswith(kept[-1] + "/"):
            kept.append(path)
    return kept
