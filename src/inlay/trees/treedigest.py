"""BuildKit's digest of an object in a file tree, and of a folder with all that is in it.

    object    H("name" "mode" 420 "uid" 0 … xattrs  data)
    folder    H("\\0" + digest of the folder as an object + for each child: "\\0" + name + its digest)

BuildKit: cache/contenthash/{checksum,filehash,tarsum}.go; recorded in tests/vectors/cache.
"""

from __future__ import annotations

import os
import stat as mode_bits
from _collections import deque  # type: ignore[import-not-found]
from time import time_ns

from inlay.digest import EMPTY, sha256
from inlay.errors import SourceError
from inlay.tasks import check_cancelled, start_thread
from inlay.trees.digestmemory import folder_key, subfolder_key
from inlay.trees.tree import shown
from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from inlay.trees.digestmemory import DigestMemory
    from inlay.trees.tree import Entry, Folder, Place, Tree

_CHUNK = 1 << 18
_BIG = 4 << 20
"""Files of so many bytes are hashed beside the others, on further threads."""
_WAITING = 64
"""So many of them may wait, each with a descriptor."""


def tree_digest(tree: Tree, path: str, *, follow_links: bool) -> str:
    """The recursive digest of what lies at `path`; `SourceError` if nothing does."""
    with tree.resolve(path, follow_last=follow_links) as place:
        known = tree.digests.get(place.path)
        if known is None:
            if place.stat is None:
                raise not_found(path)
            known = tree.digests[place.path] = _Digester(tree).everything_at(place)
        return known


def not_found(path: str) -> SourceError:
    return SourceError(f'"{shown(path)}": not found')


def header(
    stat: os.stat_result,
    owner: tuple[int, int],
    *,
    link: str = "",
    device: int = 0,
    xattrs: Mapping[str, bytes] | None = None,
) -> bytes:
    """What is hashed of an object before its data; `device` is its number if that counts.

    A socket is described as an empty file.
    """
    mode = stat.st_mode
    flag = _TYPE_FLAGS.get(mode & 0o170000, "0")
    text = (
        f"namemode{511 if flag == '2' else mode & 0o7777}uid{owner[0]}gid{owner[1]}"
        f"size{stat.st_size if flag == '0' else 0}typeflag{flag}"
        f"linkname{link}unamegnamedevmajor{os.major(device)}devminor{os.minor(device)}"
    )
    if not xattrs:
        return os.fsencode(text)
    counting = sorted(filter(xattr_counts, xattrs), key=os.fsencode)
    return os.fsencode(text) + b"".join(os.fsencode(name) + xattrs[name] for name in counting)


_TYPE_FLAGS = {
    mode_bits.S_IFDIR: "5",
    mode_bits.S_IFLNK: "2",
    mode_bits.S_IFCHR: "3",
    mode_bits.S_IFBLK: "4",
    mode_bits.S_IFIFO: "6",
}


def xattr_counts(name: str) -> bool:
    """Whether an extended attribute is part of what is hashed."""
    return name == "security.capability" or not name.startswith(("security.", "system."))


def folder_digest(tree: Tree, folder: Folder, stat: os.stat_result) -> str:
    """The digest of an open folder as an object: of its header, that is."""
    if tree.is_context and not folder.path:
        return EMPTY  # a client does not send the root, and BuildKit makes up none
    return _hashed(header(stat, tree.owner(stat), xattrs=tree.xattrs(folder)))


def leaf_digest(tree: Tree, folder: Folder, name: str, stat: os.stat_result) -> str:
    """The digest of what is no folder."""
    return _settled(_Digester(tree).leaf(folder, name, stat))


def _hashed(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


class _Digester:
    """Digests what is in one tree; big files in folders on further threads, so some digests are still to come."""

    __slots__ = ("_buffer", "_crew", "_late", "_tree")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._buffer = bytearray(_CHUNK)
        self._late: list[tuple[os.stat_result, _File, int]] = []
        self._crew: _Crew | None = None
        """Those who read big files, as long as a folder is walked that waits for them."""

    def everything_at(self, place: Place) -> str:
        """The recursive digest of an object that exists."""
        assert place.stat is not None
        if not place.is_folder:
            assert place.parent is not None
            return _settled(self.leaf(place.parent, place.name, place.stat))
        self._crew = _Crew()
        try:
            with self._tree.enter_place(place) as folder:
                digest, _ = self._folder(folder, place.stat)
        finally:
            self._crew.finish()
        if self._tree.memory:
            for stat, file, started in self._late:
                self._tree.memory.put(stat, file.settle(), started)
        return _settled(digest)

    def _folder(self, folder: Folder, stat: os.stat_result) -> tuple[_Digest, list[tuple[str, _Digest]]]:
        """The recursive digest of an open folder, and what the folder above hashes of its content again.

        BuildKit steps over a subfolder's content, but not over names in it that begin with byte 0xff.
        """
        tree, memory = self._tree, self._tree.memory
        entries = tree.entries(folder)
        keys = tree.note(folder, entries)
        own = folder_digest(tree, folder, stat)
        below = {at: self._subfolder(folder, entries[at]) for at in _subfolders(entries)}
        content = _Content(own, [entry[0] for entry in entries], keys, below)
        key = content.key() if memory else None
        if memory and key:
            known = memory.get_folder(key, keys)
            if known:
                content.memory = memory
                tree.parts[folder.path] = content
                return known, []
        parts = self._parts(folder, entries, content)
        tree.parts[folder.path] = parts
        whole = _joined(parts) if self._late else _hashed_parts(cast("list[tuple[str, str]]", parts))
        if memory and key and isinstance(whole, str):
            memory.put_folder(key, content.files(), whole)
        return whole, [part for part in parts[1:] if part[0][0] == "\udcff"]

    def _subfolder(self, folder: Folder, entry: Entry) -> tuple[_Digest, list[tuple[str, _Digest]]]:
        name, stat, state = entry
        with self._tree.enter(folder, name, state) as below:
            return self._folder(below, stat)

    def _parts(self, folder: Folder, entries: list[Entry], content: _Content) -> list[tuple[str, _Digest]]:
        """All that is hashed of an open folder: names, and what they digest to."""
        memory = self._tree.memory
        known: Sequence[str | None] = memory.get_all(content.keys) if memory else [None] * len(entries)
        parts: list[tuple[str, _Digest]] = [("", content.own)]
        for at, digest in enumerate(known):
            name, stat, _ = entries[at]
            whole, again = content.below.get(at) or (digest or self._new_leaf(folder, name, stat), ())
            parts.append((name, whole))
            parts += [(f"{name}\0{path}", part) for path, part in again]
        return parts

    def leaf(self, folder: Folder, name: str, stat: os.stat_result) -> _Digest:
        """The digest of what is no folder, now or later."""
        self._tree.check_unchanged(folder, name, stat)
        memory = self._tree.memory
        return (memory.get(stat) if memory else None) or self._new_leaf(folder, name, stat)

    def _new_leaf(self, folder: Folder, name: str, stat: os.stat_result) -> _Digest:
        memory = self._tree.memory
        started = time_ns()
        try:
            digest = self._leaf(folder, name, stat)
        except OSError as error:
            raise self._tree.unreadable(f"{folder.path}/{name}", error) from error
        if isinstance(digest, _File):
            self._late.append((stat, digest, started))
        elif memory:
            memory.put(stat, cast("str", digest), started)
        return digest

    def _leaf(self, folder: Folder, name: str, stat: os.stat_result) -> _Digest:
        tree = self._tree
        if not mode_bits.S_ISREG(stat.st_mode) or not stat.st_size:
            return _hashed(_special_header(tree, folder, name, stat))
        file = _File(tree, folder, name, stat)
        if self._crew is not None and stat.st_size >= _BIG and self._crew.take(file):
            return file
        return file.read(self._buffer)


def _special_header(tree: Tree, folder: Folder, name: str, stat: os.stat_result) -> bytes:
    """The header of what has no data.

    Device numbers in a stage's tree do not count: a mask in BuildKit's filehash_unix.go never fits.
    """
    is_link = mode_bits.S_ISLNK(stat.st_mode)
    return header(
        stat,
        tree.owner(stat),
        link=tree.target(folder, name) if is_link else "",
        device=stat.st_rdev if tree.is_context else 0,
        xattrs=tree.xattrs(folder, name),
    )


class _File:
    """An open file with data, which is read once, now or on another thread."""

    __slots__ = ("_digest", "_error", "_fd", "_hash", "_path", "_size", "_tree")

    def __init__(self, tree: Tree, folder: Folder, name: str, stat: os.stat_result) -> None:
        self._tree = tree
        self._path = f"{folder.path}/{name}"
        self._size = stat.st_size
        self._digest = ""
        self._error: BaseException | None = None
        self._fd = fd = tree.open(folder, name)
        try:
            self._hash = sha256(header(stat, tree.owner(stat), xattrs=tree.xattrs_of(fd)), size=stat.st_size)
        except BaseException:
            os.close(fd)
            raise

    def read(self, buffer: bytearray) -> str:
        """Hash the data and close the file."""
        size, fd = 0, self._fd
        try:
            while size < self._size and (n := os.readv(fd, (buffer,))):
                check_cancelled()
                self._hash.update(buffer if n == len(buffer) else memoryview(buffer)[:n])
                size += n
        finally:
            os.close(fd)
        if size != self._size:
            raise SourceError(f"{shown(self._path)} changed while it was read")
        return "sha256:" + self._hash.hexdigest()

    def read_aside(self, buffer: bytearray) -> None:
        """As `read`; what comes of it is kept for `settle`."""
        try:
            self._digest = self.read(buffer)
        except OSError as error:
            self._error = self._tree.unreadable(self._path, error)
        except BaseException as error:  # belongs to whoever asks for the digest
            self._error = error

    def settle(self) -> str:
        if self._error:
            raise self._error
        return self._digest


class _Content:
    """What is in a folder: names, and by their number what is `below` those of subfolders.

    Stands for itself in `Tree.parts` once the folder turns out to be remembered: its files are looked up when
    somebody asks.
    """

    __slots__ = ("below", "keys", "memory", "names", "own")

    def __init__(
        self,
        own: str,
        names: list[str],
        keys: list[bytes],
        below: dict[int, tuple[_Digest, list[tuple[str, _Digest]]]],
    ) -> None:
        self.own = own
        self.names = names
        self.keys = keys
        self.below = below
        self.memory: DigestMemory | None = None

    def key(self) -> bytes | None:
        """What the folder may be remembered by; None where more counts than the digests of what is in it, or
        some of those are still to come."""
        if not self.names or self.names[-1][0] == "\udcff":  # they are in the order of their bytes
            return None
        if not self.below:
            return folder_key(self.own, self.names, self.keys)
        keys = [*self.keys]
        for at, (digest, again) in self.below.items():
            if again or not isinstance(digest, str):
                return None
            keys[at] = subfolder_key(digest)
        return folder_key(self.own, self.names, keys)

    def files(self) -> list[bytes]:
        """The keys of what is no folder."""
        return [key for at, key in enumerate(self.keys) if at not in self.below] if self.below else self.keys

    def __iter__(self) -> Iterator[tuple[str, object]]:
        yield "", self.own
        digests = self.memory.get_all(self.keys) if self.memory else ()
        for at, (name, digest) in enumerate(zip(self.names, digests, strict=True)):
            yield name, self.below[at][0] if at in self.below else digest


def _subfolders(entries: list[Entry]) -> list[int]:
    """The numbers of those entries that are folders."""
    modes = [entry[1].st_mode for entry in entries]
    if not modes or min(modes) >= mode_bits.S_IFREG:  # all are files, links or sockets
        return []
    return [at for at, mode in enumerate(modes) if mode_bits.S_ISDIR(mode)]


class _Folded:
    """A folder in which some digests were still to come."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[tuple[str, _Digest]]) -> None:
        self._parts = parts

    def settle(self) -> str:
        return _hashed_parts([(name, _settled(digest)) for name, digest in self._parts])


_Digest: TypeAlias = "str | _File | _Folded"


def settled(digest: object) -> str:
    """The digest in a folder's `Tree.parts`, when all files were read."""
    return _settled(cast("_Digest", digest))


def _settled(digest: _Digest) -> str:
    return digest if isinstance(digest, str) else digest.settle()


def _joined(parts: list[tuple[str, _Digest]]) -> _Digest:
    for _, digest in parts:
        if digest.__class__ is not str:
            return _Folded(parts)
    return _hashed_parts(cast("list[tuple[str, str]]", parts))


def _hashed_parts(parts: list[tuple[str, str]]) -> str:
    return _hashed(os.fsencode("".join([f"\0{name}{digest}" for name, digest in parts])))


class _Crew:
    """Threads that read big files while the caller goes on; each lives as long as there is work."""

    __slots__ = ("_at_work", "_files", "_joins")

    def __init__(self) -> None:
        self._files: deque[_File] = deque()
        self._at_work: deque[None] = deque()
        """One for each thread that looks for files."""
        self._joins: list[Callable[[], object]] = []

    def take(self, file: _File) -> bool:
        """Leave `file` to a thread; False if there is no use in that."""
        others = len(os.sched_getaffinity(0)) - 1
        if not others or len(self._files) >= _WAITING:
            return False
        self._files.append(file)
        if len(self._at_work) < others:
            self._at_work.append(None)
            self._joins.append(start_thread(self._work_aside))
        return True

    def finish(self) -> None:
        """Help until all files are read."""
        self._work()
        for join in self._joins:
            join()

    def _work_aside(self) -> None:
        self._work()
        self._at_work.pop()

    def _work(self) -> None:
        buffer = bytearray(_CHUNK) if self._files else None
        while buffer:
            try:
                file = self._files.popleft()
            except IndexError:
                return
            file.read_aside(buffer)
