"""The state directory: what lies where, who uses it, and what may be deleted (docs/format.md).

root/oci-layout, index.json     images by name: the root is an OCI layout, which skopeo reads
root/blobs, ingest              blobs, whole and on their way in
root/snapshots                  layers as directories
root/ids-<maps>/…               snapshots and mounts for builds in a user namespace, by its maps of ids
root/cache.db                   keys and records of steps
root/layers.db                  where each layer is
root/http                       which downloads are here, and how to ask whether they have changed
root/git                        bare repositories: what was fetched from remotes
root/mounts                     cache mounts of RUN steps
root/memory                     digests of context files, by stat
root/journal                    what steps and their files were, for `--explain`
root/runtime                    bundles of running steps, and what probes found
root/lease                      locked, shared, by every build; exclusively by prune
"""

from __future__ import annotations

import fcntl
import os
import time

from inlay.content.store import ContentStore
from inlay.errors import UsageError, system_error
from inlay.system.privileges import mapping_name
from inlay.system.sqlite import move_aside, open_tables
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from types import TracebackType

    from inlay.snapshot.snapshotter import Snapshotter
    from inlay.solver.database import Database

VERSION = 1
PRUNE_EVERY_S = 24 * 3600.0
_ROOM = 1 << 20
"""Bytes: less than the tables of a store take."""


def default_root() -> str:
    """`$XDG_DATA_HOME/inlay`."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{home}/inlay"


class Store:
    """An open state directory. Use it in a `with` block: the lease lasts as long."""

    def __init__(self, root: str = "", *, warn: Callable[[str], None]) -> None:
        """Open, or begin, the store at `root`. Raises `UsageError` where that cannot be one."""
        self.root = os.path.abspath(root or default_root())
        self._warn = warn
        try:
            os.makedirs(self.root, mode=0o711, exist_ok=True)
            self._lease = os.open(f"{self.root}/lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self.share_lease()
            self._check_version()
        except BaseException as error:
            os.close(self._lease)
            if isinstance(error, OSError):  # a file system without locks, say
                raise self._unusable(error) from error
            raise
        self.content = ContentStore(self.root)
        mapping = mapping_name()
        self.trees = f"{self.root}/ids-{mapping}" if mapping else self.root
        """The folder of all that has owners: those that this process sees are right for it alone."""
        self._sweep()
        self._layers: sqlite3.Connection | None = None
        self._cache: Database | None = None
        self._snapshotter: Snapshotter | None = None

    def _unusable(self, error: OSError) -> UsageError:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else str(error.strerror).lower()
        return UsageError(f"cannot keep state in {self.root}: {reason}; choose another folder with --root")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._layers is not None:
            self._layers.close()
        if self._cache is not None:
            self._cache.close()
        os.close(self._lease)

    def share_lease(self) -> None:
        """Let other builds in; wait for those that want to be alone."""
        try:
            fcntl.flock(self._lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._warn(f"waiting for `inlay prune`, which has {self.root} for itself")
            fcntl.flock(self._lease, fcntl.LOCK_SH)

    def _sweep(self) -> None:
        """Delete what killed processes left half-made: a few folders to list, seldom anything in them."""
        try:
            self._sweep_folders()
        except OSError as error:
            self._warn(f"what killed builds left half-made cannot be deleted: {system_error(error)}")

    def _sweep_folders(self) -> None:
        self.content.clean_ingests()
        if _listed(f"{self.trees}/snapshots/new"):
            from inlay.snapshot.snapshotter import LayerDirs

            LayerDirs(f"{self.trees}/snapshots").sweep()
        if any(name.startswith(".new-") for name in _listed(f"{self.trees}/mounts")):
            from inlay.actions.cachemounts import sweep_cache_folders

            sweep_cache_folders(self.trees)

    def take_lease(self, *, wait: bool) -> bool:
        """Keep all builds out until `share_lease`. Without `wait`: only if there are none; tells whether so."""
        try:
            fcntl.flock(self._lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                return False
            self._warn("waiting for the builds that run to end")
            fcntl.flock(self._lease, fcntl.LOCK_EX)
        return True

    def is_prune_due(self) -> bool:
        """Whether nothing was pruned for a day. With a new store the first day begins."""
        stamp = f"{self.root}/pruned"
        try:
            if not os.path.exists(stamp):
                os.close(os.open(stamp, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            return os.stat(stamp).st_mtime < time.time() - PRUNE_EVERY_S
        except OSError:
            return True  # whoever prunes finds out what is wrong

    def _check_version(self) -> None:
        version = os.pread(self._lease, 32, 0).decode(errors="replace").strip()
        if not version:
            os.pwrite(self._lease, f"{VERSION}\n".encode(), 0)
        elif version != str(VERSION):
            raise UsageError(
                f"{self.root} was made by another version of inlay (format {version:.20}, this one knows "
                f"{VERSION}); choose another folder with --root, or delete it"
            )

    @property
    def layers(self) -> sqlite3.Connection:
        """The table of layers (see `refs`). A broken file is moved aside: what it named is made again."""
        if self._layers is None:
            import _sqlite3 as sqlite3

            from inlay.refs.table import SCHEMA

            path = f"{self.root}/layers.db"
            try:
                self._layers = open_tables(path, SCHEMA)
            except sqlite3.OperationalError as error:
                room = "" if _has_room(self.root) else "there is hardly any space left: free some, or "
                raise UsageError(
                    f"cannot open {path}: {error}; {room}choose another folder with --root"
                ) from error
            except sqlite3.DatabaseError as error:
                aside = move_aside(path)
                if os.path.exists(path):
                    raise UsageError(f"{path} is broken ({error}), and cannot be moved; delete it") from error
                self._warn(f"the layer table {path} is broken ({error}); it was moved to {aside}")
                self._layers = open_tables(path, SCHEMA)
        return self._layers

    @property
    def cache(self) -> Database:
        """The cache's relations."""
        if self._cache is None:
            from inlay.solver.database import Database

            self._cache = Database(f"{self.root}/cache.db", warn=self._warn)
        return self._cache

    def snapshotter(self) -> Snapshotter:
        if self._snapshotter is None:
            from inlay.snapshot.choose import choose_snapshotter

            self._snapshotter = choose_snapshotter(f"{self.trees}/snapshots", warn=self._warn)
        return self._snapshotter


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _has_room(root: str) -> bool:
    """Whether a table could be opened: on a full disk SQLite may speak of an I/O error."""
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize >= _ROOM
