"""A layer that is known before it exists: what is to be at each path, and where the data is to be taken from.

`PlannedLayer.entries` are the entries that `diff.layer_entries` would find in a layer directory that the plan
was carried out in: what is streamed from its sources and what was copied first give the same bytes.
"""

from __future__ import annotations

import os
import stat as mode_bits
from functools import partial

from inlay.archive.diff import KINDS
from inlay.archive.tar import HARD_LINK, TarEntry
from inlay.errors import SourceError
from inlay.trees.sourcefile import OpenFolders, SourceFile
from inlay.trees.tree import MAX_LINKS, components, shown
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from inlay.trees.sourcefile import Sources
    from inlay.trees.tree import Tree

Looks = tuple[int, int, int]
"""Mode with the type's bits, uid and gid."""


class PlannedFile:
    """What is to be at a path, or at several: `names` of them.

    `children` is None but of a folder. `below` is how a folder looks in the layers below, whose content is to be
    seen in it; None hides what they have at its path.
    """

    __slots__ = ("below", "children", "content", "device", "link", "looks", "mtime_ns", "names", "xattrs")

    def __init__(self, looks: Looks, mtime_ns: int) -> None:
        self.looks = looks
        self.mtime_ns = mtime_ns
        self.names = 1
        self.xattrs: Mapping[str, bytes] = {}
        self.content: SourceFile | bytes = b""
        self.link = ""
        self.device = 0
        self.children: dict[str, PlannedFile] | None = {} if mode_bits.S_ISDIR(looks[0]) else None
        self.below: Looks | None = None

    def status(self) -> os.stat_result:
        """As `lstat` would tell; what no action asks for is 0."""
        mode, uid, gid = self.looks
        fields = (mode, 0, 0, self.names, uid, gid, self.size, 0, self.mtime_ns // 10**9, 0)
        return os.stat_result(fields, {"st_mtime_ns": self.mtime_ns})

    @property
    def size(self) -> int:
        """Bytes of a file, or of a symlink's text."""
        content = self.content
        return content.size if isinstance(content, SourceFile) else len(content or os.fsencode(self.link))


class PlannedLayer:
    """The files of one layer. `root` is there whatever the layer says, and no layer says how it looks."""

    __slots__ = ("root",)

    def __init__(self) -> None:
        self.root = PlannedFile((mode_bits.S_IFDIR | 0o755, 0, 0), 0)
        self.root.below = self.root.looks

    def look(self, path: str) -> tuple[PlannedFile | None, bool]:
        """What the layer has at `path`; and if nothing, whether what the layers below have is to be seen."""
        at = self.root
        for name in path.split("/")[1:]:
            if at.children is None:
                return None, False
            if name not in at.children:
                return None, at.below is not None
            at = at.children[name]
        return at, False

    def files(self) -> Iterator[PlannedFile]:
        """All files but the root, in no order."""
        todo = [self.root]
        while todo:
            children = (todo.pop().children or {}).values()
            yield from children
            todo += [child for child in children if child.children]

    def entries(self, sources: Sources) -> Iterator[TarEntry]:
        """The layer's entries in order, with all that is known of them. `sources` opens what they are made of:
        an entry's `open` may be called once."""
        return _entries(self.root, b"", [], {}, sources)


def _entries(
    folder: PlannedFile, path: bytes, waiting: list[TarEntry], first_names: dict[int, bytes], sources: Sources
) -> Iterator[TarEntry]:
    """The entries in `folder`. In `waiting` are folders on the way that are as they were: they are given out
    before the first that is not."""
    children = folder.children or {}
    for encoded, name in sorted([(os.fsencode(name), name) for name in children]):
        file, inside = children[name], path + encoded
        entry = _entry(file, inside, first_names, sources)
        if file.below is None or file.below != file.looks:
            yield from waiting
            waiting.clear()
            yield entry
        else:
            waiting.append(entry)
        if file.children:
            yield from _entries(file, inside + b"/", waiting, first_names, sources)
        if waiting and waiting[-1] is entry:
            waiting.pop()


def _entry(file: PlannedFile, path: bytes, first_names: dict[int, bytes], sources: Sources) -> TarEntry:
    mode, uid, gid = file.looks
    kind = KINDS[mode & 0o170000]
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    if file.xattrs:
        xattrs = tuple(sorted([(os.fsencode(name), value) for name, value in file.xattrs.items()]))
    if file.names > 1 and (first := first_names.setdefault(id(file), path)) != path:
        return TarEntry(path, HARD_LINK, mode & 0o7777, uid, gid, file.mtime_ns, link=first, xattrs=xattrs)
    content, opener, data = file.content, None, b""
    if isinstance(content, SourceFile):
        opener = partial(sources.open, content)
    else:
        data = content
    return TarEntry(
        path,
        kind,
        mode & 0o7777,
        uid,
        gid,
        file.mtime_ns,
        0 if file.link else file.size,
        os.fsencode(file.link),
        os.major(file.device),
        os.minor(file.device),
        xattrs,
        opener,
        data,
    )


class LayerStack:
    """A tree with planned layers on top, looked at as if it were one: paths as in `trees.tree`.

    For one thread at a time; to be closed.
    """

    __slots__ = ("_base", "_layers", "_tree")

    def __init__(self, base: Tree | None, layers: Sequence[PlannedLayer]) -> None:
        """`layers` come lowest first; a base of None is empty."""
        self._tree = base
        self._base = OpenFolders(base) if base is not None else None
        self._layers = [*reversed(layers)]

    def __enter__(self) -> LayerStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._base is not None:
            self._base.close()

    def lstat(self, path: str) -> os.stat_result | None:
        """What is at `path`, which has no links above its last part; None if nothing is."""
        for layer in self._layers:
            found, through = layer.look(path)
            if found is not None:
                return found.status()
            if not through:
                return None
        if self._base is None:
            return None
        above, _, name = path.rpartition("/")
        try:
            folder = self._base.at(above)
            return os.stat(name or ".", dir_fd=folder.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_planned(self, path: str) -> bool:
        """Whether a planned layer decides what is at `path`, or that nothing is."""
        for layer in self._layers:
            found, through = layer.look(path)
            if found is not None or not through:
                return True
        return False

    def readlink(self, path: str) -> str:
        """The text of the symlink at `path`."""
        for layer in self._layers:
            found, _ = layer.look(path)
            if found is not None:
                return found.link
        assert self._base is not None
        above, _, name = path.rpartition("/")
        return os.readlink(name, dir_fd=self._base.at(above).fd)

    def xattrs(self, path: str) -> Mapping[str, bytes]:
        """The extended attributes of the folder at `path`."""
        for layer in self._layers:
            found, _ = layer.look(path)
            if found is not None:
                return found.xattrs
        assert self._tree is not None
        assert self._base is not None
        return self._tree.xattrs(self._base.at(path))

    def resolve(self, path: str) -> str:
        """Where `path` leads over links, also at its end; what is missing is taken as it stands.

        Empty for the root. Raises `SourceError` for links in a circle.
        """
        names: list[str] = []
        todo = components(path)
        links = 0
        while todo:
            name = todo.pop()
            if name == "..":
                del names[-1:]
                continue
            names.append(name)
            here = "/" + "/".join(names)
            status = self.lstat(here)
            if status is not None and mode_bits.S_ISLNK(status.st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise SourceError(f"{shown(path)}: too many links")
                target = self.readlink(here)
                names = [] if target.startswith("/") else names[:-1]
                todo += components(target)
        return "".join([f"/{name}" for name in names])
