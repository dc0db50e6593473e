"""Paths inside images, of Linux and of Windows (BuildKit: util/system/path.go).

Windows paths lose their drive, which must be C:, and come out with slashes. Raises `ValueError` with BuildKit's
message.
"""

from __future__ import annotations

from inlay.golang.patterns import clean, join
from inlay.golang.text import quote


def normalise_path(parent: str, path: str, os: str, *, keep_slash: bool = False) -> str:
    """`path` from `parent`, absolute; an absolute Linux path stays as it was written.

    `keep_slash` keeps a slash, or a slash and a dot, at the end.
    """
    written = path = to_slash(path, os)
    parent = _without_drive(to_slash(parent, os) or "/", os, keep_slash=keep_slash)
    if not is_absolute(parent, os):
        parent = join("/", parent)
    path = _without_drive(path or parent, os, keep_slash=keep_slash)
    if not is_absolute(path, os):
        path = join(parent, path)
    if keep_slash:
        path = restore_end(path, written)
    return to_slash(path, os)


def restore_end(path: str, written: str) -> str:
    """Give `path` the slash, or slash and dot, that `written` ended in before it was cleaned."""
    if written.endswith("/"):
        return path if path.endswith("/") else path + "/"
    if written.endswith("/."):
        return (path if path == "/" else path + "/") + "."
    return path


def normalise_workdir(current: str, path: str, os: str) -> str:
    """The working directory after `WORKDIR path`, with the system's own slashes."""
    try:
        directory = normalise_path(current, path, os)
    except ValueError as error:
        raise ValueError(f"normalizing working directory: {error}") from None
    return directory.replace("/", "\\") if os == "windows" else directory


def to_slash(path: str, os: str) -> str:
    return path.replace("\\", "/") if os == "windows" else path


def is_absolute(path: str, os: str) -> bool:
    try:
        return to_slash(without_drive(path, os), os).startswith("/")
    except ValueError:
        return False


def without_drive(path: str, os: str, *, keep_slash: bool = False) -> str:
    """A Windows path without `C:`, cleaned, with slashes; any other path as it is."""
    if os != "windows":
        return path
    if len(path.encode(errors="surrogateescape")) == 2 and path[1:] == ":":
        raise ValueError(f"No relative path specified in {quote(path)}")
    if to_slash(path[:2], os) == "//":
        raise ValueError("UNC paths are not supported")
    drive, colon, rest = path.partition(":")
    if not colon:
        rest = path
    elif drive.lower() != "c":
        raise ValueError("The specified path is not on the system drive (C:)")
    rest = to_slash(rest, os)
    cleaned = clean(rest)
    return cleaned + "/" if keep_slash and rest.endswith("/") and len(cleaned) > 1 else cleaned


def _without_drive(path: str, os: str, *, keep_slash: bool) -> str:
    try:
        return without_drive(path, os, keep_slash=keep_slash)
    except ValueError as error:
        raise ValueError(f"removing drive letter: {error}") from None
