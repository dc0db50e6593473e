"""Trees by overlayfs, in detached mounts: nothing is copied, and kill -9 leaves no mount behind."""

from __future__ import annotations

import errno
import os

from inlay.archive import whiteout
from inlay.archive.tidy import tidy_layer
from inlay.snapshot.merged import merge
from inlay.snapshot.snapshotter import LayerDirs, View, copy_root_looks
from inlay.system import linux
from inlay.system.privileges import in_user_namespace
from inlay.tasks import start_thread
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from inlay.snapshot.snapshotter import Incoming, LayerDir

_MAX_LAYERS = 500  # the kernel's own limit
_MAX_LAYERS_MOUNT2 = 150  # what surely fits into the page that mount(2) takes
_OPTIONS = (("index", "off"), ("redirect_dir", "nofollow"), ("metacopy", "off"))
"""Features that let a layer directory depend on those below it, or say what no archive can. `userxattr` goes
with no other `redirect_dir` than this."""


class OverlayActive:
    """Layers with a new one on top, mounted to be written."""

    __slots__ = ("_incoming", "_layers", "_mounted", "_snapshotter")

    def __init__(
        self, snapshotter: Overlay, incoming: Incoming, layers: Sequence[LayerDir], mounted: View
    ) -> None:
        self._snapshotter = snapshotter
        self._incoming = incoming
        self._layers = layers
        self._mounted = mounted

    @property
    def id(self) -> str:
        return self._incoming.id

    @property
    def fd(self) -> int:
        return self._mounted.fd

    @property
    def path(self) -> str:
        return self._mounted.path

    def commit(self, lower: View | None = None) -> LayerDir:
        self._mounted.close()
        if self._layers and os.listdir(self._incoming.directory):
            if lower is not None:
                tidy_layer(self._incoming.directory, lower.fd)
            else:
                with self._snapshotter.view(self._layers) as own:
                    tidy_layer(self._incoming.directory, own.fd)
        return self._incoming.commit()

    def discard(self) -> None:
        self._mounted.close()
        self._incoming.discard()

    def __enter__(self) -> OverlayActive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class Overlay(LayerDirs):
    """The snapshotter for wherever overlayfs can be mounted: as root, or in a user namespace."""

    def __init__(self, root: str, *, append: bool = True) -> None:
        """`append`: whether to give layers to the kernel one by one; without it by mount(2), as of old."""
        super().__init__(root)
        self._append = append
        self._userxattr = in_user_namespace()

    def prepare(self, layers: Sequence[LayerDir]) -> OverlayActive:
        incoming = self.receive()
        try:
            if not layers:
                # Not overlayfs: it would mark every folder as hiding what is below, and this layer may be
                # put on others.
                mounted = View(_bind(incoming.directory))
            else:
                copy_root_looks(self.upper(layers[-1]), incoming.directory)
                os.mkdir(f"{incoming.folder}/work", 0o711)
                mounted = self._mount(layers, f"new/{incoming.id}")
        except BaseException:
            incoming.discard()
            raise
        return OverlayActive(self, incoming, layers, mounted)

    def view(self, layers: Sequence[LayerDir]) -> View:
        self.open()
        if not layers:
            fd = _bind(f"{self.root}/empty")
            linux.set_attributes(fd, linux.MOUNT_ATTR_RDONLY, recursive=False)
            return View(fd)
        return self._mount(layers, "")

    def _mount(self, layers: Sequence[LayerDir], changes: str) -> View:
        """Mount `layers`, and for writing the folder `changes` (inside the root) on top of them.

        A layer that stands in them twice counts where it is uppermost: overlayfs refuses a folder twice, and
        what the lower one has shows through nowhere.
        """
        layers = list(dict.fromkeys(reversed(layers)))[::-1]
        most = _MAX_LAYERS if self._append else _MAX_LAYERS_MOUNT2
        merged = merge(self, layers[: len(layers) - most + 1]) if len(layers) > most else None
        try:
            names = [merged.name, *(f"{layer}/fs" for layer in layers[1 - most :])] if merged else None
            lowers = list(reversed(names or [f"{layer}/fs" for layer in layers]))
            if len(lowers) == 1 and not changes:
                lowers.append("empty")  # overlayfs wants at least two folders
            return View(self._mount_folders(lowers, changes), merged)
        except BaseException:
            if merged is not None:
                merged.close()
            raise

    def _mount_folders(self, lowers: list[str], changes: str) -> int:
        """Mount folders given by paths inside the root, the topmost first; return the mount's descriptor."""
        options = list(_OPTIONS)
        if self._userxattr:
            options.append(("userxattr", ""))
        folders: list[tuple[str, str]] = []
        if changes:
            folders = [("upperdir", f"{changes}/fs"), ("workdir", f"{changes}/work")]
            options.append(("volatile", ""))  # after a crash it is thrown away, so it need not be synced
        if self._append:
            try:
                return self._mount_appending([("lowerdir+", lower) for lower in lowers] + folders, options)
            except OSError as error:
                if error.errno != errno.EINVAL or "lowerdir+" not in str(error):
                    raise
                self._append = False  # Linux before 6.7
                if len(lowers) > _MAX_LAYERS_MOUNT2:
                    raise
        return self._mount_at_once([("lowerdir", ":".join(lowers)), *folders, *options])

    def _mount_appending(self, folders: list[tuple[str, str]], options: list[tuple[str, str]]) -> int:
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # a value may have 255 bytes: name folders through the descriptor, wherever the root is
            there = [(name, f"/proc/self/fd/{root}/{folder}") for name, folder in folders]
            return linux.new_mount("overlay", [("source", "overlay"), *there, *options])
        finally:
            os.close(root)

    def _mount_at_once(self, options: list[tuple[str, str]]) -> int:
        data = ",".join(f"{name}={value}" if value else name for name, value in options).encode()
        outcome: list[int | BaseException] = []

        def mount() -> None:
            try:
                outcome.append(_mount_in_private(data, self.root, "empty"))
            except BaseException as error:  # belongs to whoever waits
                outcome.append(error)

        wait = start_thread(mount)
        wait()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]


def _bind(folder: str) -> int:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return linux.open_tree(b"", fd, recursive=False)
    finally:
        os.close(fd)


def _mount_in_private(options: bytes, folder: str, scratch: str) -> int:
    """Make a detached overlay by the old mount(2): for kernels whose fsconfig lacks an option.

    The calling thread leaves the mount namespace and working directory of its process for good, so it has to
    be one made for this. Relative paths in `options` (under a page long) start at `folder`; `scratch` is an
    empty folder to mount at for a moment, where no other process sees it.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    os.chdir(folder)
    linux.mount("overlay", scratch, "overlay", options=options)
    return _bind(scratch)


def overlay_works(root: str) -> str | None:
    """Try overlayfs on the file system of `root`: None where it does all that is needed, else why not."""
    try:
        overlay = Overlay(root)
        with overlay.receive() as incoming:
            os.mkdir(f"{incoming.directory}/folder")
            os.mkdir(f"{incoming.directory}/gone")
            layer = incoming.commit()
        try:
            with overlay.prepare([layer]) as active:
                return _try_changes(active.path, f"{overlay.root}/new/{active.id}/fs")
        finally:
            overlay.remove(layer)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        return f"overlayfs cannot write to the file system of {root}: {reason}"


def _try_changes(tree: str, changes: str) -> str | None:
    for name in ("folder", "gone"):
        os.rmdir(f"{tree}/{name}")
    os.mkdir(f"{tree}/folder")
    if not whiteout.is_whiteout(os.lstat(f"{changes}/gone")):
        return "overlayfs does not note removed files as character devices 0:0"
    if not whiteout.is_opaque(f"{changes}/folder"):
        return "overlayfs does not note replaced folders in an extended attribute"
    return None
