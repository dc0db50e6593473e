"""A file tree to read: a folder that is looked at as if it were the root of a file system.

Names and paths are `str`; bytes that are not UTF-8 are lone surrogates, as in `os.fsdecode`. Every step
goes from a folder's descriptor to a name in it, without following links: a link is resolved by its text,
inside the tree. So nothing outside can be reached, even while somebody changes the tree.
"""

from __future__ import annotations

import errno
import os
import stat as mode_bits
from _operator import itemgetter

from inlay.errors import SourceError
from inlay.tasks import check_cancelled
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from inlay.trees.digestmemory import DigestMemory

Entry = tuple[str, os.stat_result, object]
"""A name in a folder, what it is (links not followed), and what `Tree.enter` wants to know of it."""

MAX_LINKS = 255
MAX_DEPTH = 255
"""Folders within folders, each with an open descriptor. BuildKit only limits the path, to 4096 bytes."""

_name = itemgetter(0)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Folder:
    """An open folder. `path` is its place in the tree, without links: "" for the root, else `/a/b`."""

    __slots__ = ("fd", "path", "state")

    def __init__(self, fd: int, path: str, state: object = None) -> None:
        self.fd = fd
        self.path = path
        self.state = state

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Place:
    """Where a path leads.

    `path` has no links in it (but may end in one). `stat` is None where nothing is there; `path` is then
    where it would be. `parent` is the folder that holds it, open until `close`: None for the root, and
    where that folder is missing too.
    """

    __slots__ = ("_folders", "parent", "path", "stat", "state")

    def __init__(
        self, folders: list[Folder], path: str, stat: os.stat_result | None, state: object = None
    ) -> None:
        self._folders = folders
        depth = path.count("/")
        self.parent = folders[depth - 1] if 0 < depth <= len(folders) else None
        self.path = path
        self.stat = stat
        self.state = state

    @property
    def name(self) -> str:
        """The last component; empty for the root."""
        return self.path.rpartition("/")[2]

    @property
    def is_folder(self) -> bool:
        return self.stat is not None and mode_bits.S_ISDIR(self.stat.st_mode)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for folder in self._folders:
            folder.close()


class Tree:
    """The tree below the folder that `fd` is open on; the descriptor is taken over.

    May be read by several threads at once.
    """

    __slots__ = ("_fd", "chosen", "digests", "memory", "parts")

    is_context = False
    """True for a build context, whose objects BuildKit describes in another way (see `treedigest`)."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.digests: dict[str, str] = {}
        """The digests found so far, by path without links: `treedigest`'s own note."""
        self.parts: dict[str, Iterable[tuple[str, object]]] = {}
        """Of each folder that was digested: the names in it and what they digest to (see `listing`)."""
        self.chosen: dict[object, Sequence[tuple[str, str]]] = {}
        """By selector with patterns: what it chose, as `parts`."""
        self.memory: DigestMemory | None = None

    @classmethod
    def at(cls, path: str) -> Tree:
        """Open the folder `path`, which may be a link."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    @classmethod
    def empty(cls) -> Tree:
        """A tree with nothing in it."""
        import tempfile

        path = tempfile.mkdtemp(prefix="inlay-empty-")
        try:
            os.chmod(path, 0o755)
            return cls.at(path)
        finally:
            os.rmdir(path)

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def owner(self, stat: os.stat_result) -> tuple[int, int]:
        """uid and gid of an object."""
        return stat.st_uid, stat.st_gid

    def root(self) -> Folder:
        return Folder(os.open(".", _FOLDER, dir_fd=self._fd), "")

    def open_folder(self, path: str) -> int:
        """Open the folder at `path`, which has no links in it; a descriptor."""
        fd = os.open(".", _FOLDER, dir_fd=self._fd)
        for name in reversed(components(path)):
            try:
                inner = os.open(name, _FOLDER, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def open_below(self, folder: Folder, name: str) -> int:
        """Open the folder `name` in `folder`; a descriptor."""
        return os.open(name, _FOLDER, dir_fd=folder.fd)

    def enter(self, folder: Folder, name: str, state: object = None) -> Folder:
        """Open the folder `name` in `folder`. Every walk comes by here for each."""
        check_cancelled()
        path = f"{folder.path}/{name}"
        if path.count("/") > MAX_DEPTH:
            raise SourceError(f"{shown(path)} lies more than {MAX_DEPTH} folders deep")
        try:
            return Folder(self.open_below(folder, name), path, state)
        except OSError as error:
            raise self.unreadable(path, error) from error

    def enter_place(self, place: Place) -> Folder:
        """Open the folder that is at `place`."""
        return self.enter(place.parent, place.name, place.state) if place.parent else self.root()

    def entry(self, folder: Folder, name: str) -> Entry | None:
        """What `name` in `folder` is, or None where there is no such thing."""
        try:
            return name, os.stat(name, dir_fd=folder.fd, follow_symlinks=False), None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.unreadable(f"{folder.path}/{name}", error) from error

    def entries(self, folder: Folder) -> list[Entry]:
        """All that is in `folder`, in the order of the names' bytes."""
        with os.scandir(folder.fd) as names:
            items = [*names]
        try:
            found: list[Entry] = [(item.name, item.stat(follow_symlinks=False), None) for item in items]
        except FileNotFoundError:
            return in_order([entry for item in items if (entry := self.entry(folder, item.name))])
        return in_order(found)

    def open(self, folder: Folder, name: str) -> int:
        """Open the file `name` in `folder` to read it; a descriptor."""
        return os.open(name, _FILE, dir_fd=folder.fd)

    def note(self, folder: Folder, entries: list[Entry]) -> list[bytes]:
        """Take it that all of `entries` in `folder` are looked into, as by `check_unchanged` of each; return their
        `file_keys` if this tree may have a memory of digests."""
        return []

    def check_unchanged(self, folder: Folder, name: str, stat: os.stat_result) -> None:
        """Raise `SourceError` for a file that is not as it was when this was last asked of it."""

    def read_text(self, path: str, limit: int) -> str:
        """The text of the file at `path`, over links; empty if there is none.

        Raises `SourceError` if it has more than `limit` bytes, or is no file.
        """
        with self.resolve(path, follow_last=True) as place:
            if place.stat is None or place.parent is None:
                return ""
            if not mode_bits.S_ISREG(place.stat.st_mode):
                raise SourceError(f"{shown(path)} is not a regular file")
            with open(self.open(place.parent, place.name), "rb") as file:
                data = file.read(limit + 1)
        if len(data) > limit:
            raise SourceError(f'"{shown(path)}" exceeds {limit} bytes')
        return os.fsdecode(data)

    def unreadable(self, path: str, error: OSError) -> SourceError:
        """The error for a path that cannot be read."""
        return SourceError(f"cannot read {shown(path)}: {reason(error)}")

    def target(self, folder: Folder, name: str) -> str:
        """The text of the link `name`."""
        return os.readlink(name, dir_fd=folder.fd)

    def xattrs(self, folder: Folder, name: str = "") -> dict[str, bytes]:
        """The extended attributes of `name`, or of `folder` itself; none where the file system has none."""
        if not name:
            return self.xattrs_of(folder.fd)
        return self.xattrs_of(f"/proc/self/fd/{folder.fd}/{name}")

    def xattrs_of(self, at: int | str) -> dict[str, bytes]:
        """The extended attributes of what is open as, or lies at, `at`."""
        follow = isinstance(at, int)
        try:
            names = os.listxattr(at, follow_symlinks=follow)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return {}
            raise
        found = {}
        for name in names:
            try:
                found[name] = os.getxattr(at, name, follow_symlinks=follow)
            except OSError:  # BuildKit leaves out what may be listed but not read, too
                continue
        return found

    def resolve(self, path: str, *, follow_last: bool) -> Place:
        """Follow `path` from the root, and links in it as the kernel would if the root were `/`.

        What is missing is no error: the rest of the path is then taken as it stands.
        """
        walk = _Walk(self, follow_last=follow_last)
        try:
            return walk.to(path)
        except BaseException:
            walk.close()
            raise


class _Walk:
    """One way from the root along a path."""

    __slots__ = ("folders", "follow_last", "names", "tree")

    def __init__(self, tree: Tree, *, follow_last: bool) -> None:
        self.tree = tree
        self.follow_last = follow_last
        self.names: list[str] = []
        self.folders = [tree.root()]
        """Those on the way to the last of `names`, as far as there are folders."""

    def close(self) -> None:
        for folder in self.folders:
            folder.close()

    def to(self, path: str) -> Place:
        todo = components(path)
        links = 0
        while todo:
            name = todo.pop()
            if name == "..":
                self.up()
                continue
            entry = self.look(name)
            if entry and mode_bits.S_ISLNK(entry[1].st_mode) and (todo or self.follow_last):
                links += 1
                if links > MAX_LINKS:
                    raise SourceError(f"{shown(path)}: too many links")
                target = self.tree.target(self.folders[-1], name)
                if target.startswith("/"):
                    self.start_over()
                todo += components(target)
                continue
            self.names.append(name)
            if todo and entry and mode_bits.S_ISDIR(entry[1].st_mode):
                self.folders.append(self.tree.enter(self.folders[-1], name, entry[2]))
        return self.place()

    def look(self, name: str) -> Entry | None:
        if len(self.folders) <= len(self.names):
            return None  # below something that is missing, or is no folder
        return self.tree.entry(self.folders[-1], name)

    def up(self) -> None:
        if not self.names:
            return
        if len(self.folders) > len(self.names):
            self.folders.pop().close()
        self.names.pop()

    def start_over(self) -> None:
        while len(self.folders) > 1:
            self.folders.pop().close()
        self.names.clear()

    def place(self) -> Place:
        if not self.names:
            return Place(self.folders, "", os.fstat(self.folders[0].fd))
        if len(self.folders) > len(self.names):  # a link's text ended with ".."
            self.folders.pop().close()
        name = self.names.pop()
        path = "".join(f"/{part}" for part in (*self.names, name))
        entry = self.look(name)
        return Place(self.folders, path, entry[1], entry[2]) if entry else Place(self.folders, path, None)


def components(path: str) -> list[str]:
    """What `path` is made of, last first; `..` is kept."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def in_order(entries: list[Entry]) -> list[Entry]:
    """Sort `entries` by the bytes of their names."""
    entries.sort(key=_name)
    if not "".join([entry[0] for entry in entries]).isascii():
        # Code points sort as their UTF-8 does, but not the stand-ins for bytes that are not UTF-8.
        entries.sort(key=lambda entry: os.fsencode(entry[0]))
    return entries


def reason(error: OSError) -> str:
    """What the system says, without the path."""
    return (error.strerror or str(error)).lower()


def shown(path: str) -> str:
    """`path` for a message: printable, whatever bytes it was made of."""
    return path.encode("utf-8", "backslashreplace").decode() or "/"
