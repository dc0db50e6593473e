"""`RUN --mount=type=cache`: folders that outlive their steps (BuildKit: solver/llbsolver/mounts/mount.go).

    root/mounts/<hash of id and base>.<n>/data     the folder
    root/mounts/<hash of id and base>.<n>/id       the id that the Dockerfile gave it
    root/mounts/<hash of id and base>.<n>/lock     held by the steps that use it; its mtime is the last use
    root/mounts/.new-<random>                      one in the making, locked by whoever makes it

Only `private` mounts have more than number 0: a step takes the first one that nobody uses.
"""

from __future__ import annotations

import fcntl
import os
import time

from inlay.digest import Digest
from inlay.llb.ops import LOCKED, PRIVATE
from inlay.snapshot.snapshotter import lock_unused
from inlay.tasks import in_thread
from inlay.trees.rooted import remove_tree
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inlay.llb.ops import CacheOption
    from inlay.refs.ref import Ref
    from inlay.refs.store import RefStore
    from inlay.trees.tree import Tree

POLL_S = 0.02
LONGEST_POLL_S = 0.5
_NEW = ".new-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class CacheMount(NamedTuple):
    """A cache folder in use; `lock` is the descriptor that says so."""

    path: str
    lock: int

    def release(self) -> None:
        os.close(self.lock)


class CacheUsage(NamedTuple):
    """One cache folder, for `inlay du`. `used` is seconds since 1970."""

    id: str
    folder: str
    used: float


class CacheMounts:
    """All cache folders of one root; shared by threads and processes."""

    def __init__(self, root: str, refs: RefStore) -> None:
        self._root = f"{root}/mounts"
        self._refs = refs

    async def take(self, option: CacheOption, base: Ref | None) -> CacheMount:
        """Wait for the folder that `option` names. A new one begins as a copy of `base`."""
        tree = await self._refs.mounted.tree(base) if base is not None and base.layers else None
        name = cache_name(option, base)
        stop: list[bool] = []
        return await in_thread(
            self._take,
            name,
            option,
            tree,
            lambda: bool(stop),
            abort=lambda: stop.append(True),
            discard=CacheMount.release,
        )

    def _take(
        self, name: str, option: CacheOption, tree: Tree | None, stopped: Callable[[], bool]
    ) -> CacheMount:
        stem = f"{self._root}/{Digest.of(os.fsencode(name)).hex[:32]}"
        number, pause = 0, POLL_S
        exclusive = option.sharing in (LOCKED, PRIVATE)
        while True:
            folder = f"{stem}.{number}"
            self._make(folder, option.id, tree)
            try:
                lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # pruned meanwhile
            try:
                fcntl.flock(lock, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                if option.sharing == PRIVATE:
                    number += 1
                    continue
                if stopped():
                    raise InterruptedError(f"gave up waiting for cache mount {option.id}") from None
                time.sleep(pause)
                pause = min(LONGEST_POLL_S, pause * 1.5)
                continue
            except BaseException:
                os.close(lock)
                raise
            if not _is_at(lock, f"{folder}/lock"):  # pruned, and perhaps made again, before it was locked
                os.close(lock)
                continue
            os.utime(lock)
            return CacheMount(f"{folder}/data", lock)

    def _make(self, folder: str, name: str, tree: Tree | None) -> None:
        """Make the folder, whole or not at all."""
        if os.path.isdir(f"{folder}/data"):
            return
        os.makedirs(self._root, mode=0o711, exist_ok=True)
        new, making = self._begin()
        try:
            os.mkdir(f"{new}/data", 0o755)
            os.close(os.open(f"{new}/lock", os.O_CREAT | os.O_CLOEXEC, 0o600))
            with open(f"{new}/id", "w", encoding="utf-8", errors="surrogateescape") as out:
                out.write(name)
            if tree is not None:
                from inlay.actions.files.op import copy_tree

                copy_tree(tree, f"{new}/data")
            os.rename(new, folder)
        except BaseException as error:
            remove_tree(new)
            # Another step may have been faster.
            if not isinstance(error, OSError) or not os.path.isdir(f"{folder}/data"):
                raise
        finally:
            os.close(making)

    def _begin(self) -> tuple[str, int]:
        """A folder to make a cache folder in, and its lock. A sweep finds none without its lock."""
        everything = os.open(self._root, _FOLDER)
        try:
            fcntl.flock(everything, fcntl.LOCK_SH)
            new = f"{self._root}/{_NEW}{os.urandom(8).hex()}"
            os.mkdir(new, 0o711)
            making = os.open(new, _FOLDER)
            fcntl.flock(making, fcntl.LOCK_EX)
        finally:
            os.close(everything)
        return new, making


def cache_name(option: CacheOption, base: Ref | None) -> str:
    """What a cache folder is known by: its id, and what it began as."""
    return option.id + (":" + ",".join(layer.key for layer in base.layers) if base is not None else "")


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def cache_folders(root: str) -> Iterator[CacheUsage]:
    """All cache folders under `root`, in no order."""
    for name in _names(root):
        folder = f"{root}/mounts/{name}"
        try:
            with open(f"{folder}/id", encoding="utf-8", errors="surrogateescape") as file:
                yield CacheUsage(file.read(), folder, os.stat(f"{folder}/lock").st_mtime)
        except OSError:
            continue


def remove_cache_folder(folder: str) -> bool:
    """Delete a cache folder; False where a step uses it, or it is gone."""
    try:
        lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever waits for the lock must find either all of the folder or none of it.
        doomed = f"{os.path.dirname(folder)}/{_NEW}{os.urandom(8).hex()}"
        os.rename(folder, doomed)
        remove_tree(doomed)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def sweep_cache_folders(root: str) -> int:
    """Delete what killed processes left half-made or half-deleted; return how much that was."""
    names = [name for name in _names(root) if name.startswith(_NEW)]
    if not names:
        return 0
    doomed = []
    everything = os.open(f"{root}/mounts", _FOLDER)
    try:
        fcntl.flock(everything, fcntl.LOCK_EX)
        for name in names:
            lock = lock_unused(f"{root}/mounts/{name}")
            if lock is not None:
                doomed.append((name, lock))
    finally:
        os.close(everything)
    for name, lock in doomed:
        remove_tree(f"{root}/mounts/{name}")
        os.close(lock)
    return len(doomed)


def _names(root: str) -> list[str]:
    try:
        return os.listdir(f"{root}/mounts")
    except FileNotFoundError:
        return []
