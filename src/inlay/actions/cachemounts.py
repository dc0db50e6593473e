"""`RUN --mount=type=cache`: folders that outlive their steps (BuildKit: solver/llbsolver/mounts/mount.go).

    root/mounts/<hash of id and base>.<n>/data     the folder
    root/mounts/<hash of id and base>.<n>/id       the id that the Dockerfile gave it
    root/mounts/<hash of id and base>.<n>/lock     held by the steps that use it

Only `private` mounts have more than number 0: a step takes the first one that nobody uses.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from inlay.digest import Digest
from inlay.llb.ops import LOCKED, PRIVATE
from inlay.namedtuple import NamedTuple
from inlay.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inlay.archive.tree import Tree
    from inlay.llb.ops import CacheOption
    from inlay.refs import Ref, RefStore

POLL_S = 0.02
LONGEST_POLL_S = 0.5


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
        tree = await self._refs.tree(base) if base is not None and base.layers else None
        name = option.id + (":" + ",".join(layer.key for layer in base.layers) if base is not None else "")
        stop: list[bool] = []
        return await in_thread(
            self._take, name, option, tree, lambda: bool(stop), abort=lambda: stop.append(True)
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
            lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
            if not os.path.isdir(f"{folder}/data"):  # pruned between making and locking
                os.close(lock)
                continue
            os.utime(lock)
            return CacheMount(f"{folder}/data", lock)

    def _make(self, folder: str, name: str, tree: Tree | None) -> None:
        """Make the folder, whole or not at all."""
        if os.path.isdir(f"{folder}/data"):
            return
        os.makedirs(self._root, mode=0o711, exist_ok=True)
        new = f"{self._root}/.new-{os.getpid()}-{os.urandom(6).hex()}"
        os.mkdir(new, 0o711)
        os.mkdir(f"{new}/data", 0o755)
        with open(f"{new}/id", "w", encoding="utf-8", errors="surrogateescape") as out:
            out.write(name)
        if tree is not None:
            from inlay.actions.fileop import copy_tree

            copy_tree(tree, f"{new}/data")
        try:
            os.rename(new, folder)
        except OSError:
            import shutil

            shutil.rmtree(new, ignore_errors=True)  # another step was faster
            if not os.path.isdir(f"{folder}/data"):
                raise

    def usage(self) -> Iterator[CacheUsage]:
        """All cache folders, in no order."""
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return
        for name in names:
            folder = f"{self._root}/{name}"
            try:
                with open(f"{folder}/id", encoding="utf-8", errors="surrogateescape") as file:
                    yield CacheUsage(file.read(), folder, os.stat(f"{folder}/lock").st_mtime)
            except OSError:
                continue

    def remove(self, folder: str) -> bool:
        """Delete a cache folder; False where a step uses it."""
        import shutil

        with open(f"{folder}/lock", "rb+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            shutil.rmtree(folder, ignore_errors=True)
        return True
