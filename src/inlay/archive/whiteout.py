"""How a layer says that something below it is gone.

In archives names say it (OCI image spec, layer.md), in layer directories what overlayfs looks for:

    a removed file             an empty file `.wh.<name>`          a character device 0:0 called `<name>`
    a folder that hides        an empty file `.wh..wh..opq`        xattr `trusted.overlay.opaque` = `y` on it
    the one below              in it                               (`user.overlay.opaque` in a user namespace)

Where such devices cannot be made, as on overlayfs itself, an empty socket without any permission and from 1970 stands
for one: no layer has sockets.
"""

from __future__ import annotations

import errno
import os
import stat

PREFIX = b".wh."
META_PREFIX = b".wh..wh."
OPAQUE_MARKER = b".wh..wh..opq"

TRUSTED_OPAQUE = b"trusted.overlay.opaque"
USER_OPAQUE = b"user.overlay.opaque"
OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a file of a layer directory stands for one that is gone."""
    if stat.S_ISSOCK(status.st_mode):
        return not stat.S_IMODE(status.st_mode) and not status.st_mtime_ns
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(folder: int | bytes | str) -> bool:
    """Whether a folder of a layer directory hides the one below it."""
    for name in (TRUSTED_OPAQUE, USER_OPAQUE):
        try:
            if os.getxattr(folder, name) == b"y":
                return True
        except OSError:  # no such attribute, not allowed to see it, or a file system without any
            continue
    return False


def mark_opaque(folder: int | bytes | str) -> None:
    """Make a folder of a layer directory hide the one below it.

    In a user namespace the `user.` attribute is what may be set, and what overlayfs looks for there.
    """
    try:
        os.setxattr(folder, TRUSTED_OPAQUE, b"y")
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
        os.setxattr(folder, USER_OPAQUE, b"y")


def unmark_opaque(folder: int | bytes | str) -> None:
    """Make a folder of a layer directory show what is below it."""
    for name in (TRUSTED_OPAQUE, USER_OPAQUE):
        try:
            os.removexattr(folder, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EPERM, errno.ENOTSUP):
                raise


def make_whiteout(name: bytes, dir_fd: int) -> None:
    """Make the file in a layer directory that says that `name` is gone."""
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dir_fd)
    except PermissionError:
        os.mknod(name, stat.S_IFSOCK, dir_fd=dir_fd)
        os.utime(name, ns=(0, 0), dir_fd=dir_fd, follow_symlinks=False)
