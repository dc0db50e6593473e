"""COPY, ADD, WORKDIR and the like: file actions on trees (BuildKit: solver/llbsolver/file/backend.go)."""

from __future__ import annotations

import stat as mode_bits

from inlay.actions.files.chmod import parse_mode
from inlay.actions.files.copying import CopyOptions, plan_copy
from inlay.actions.files.entries import FILE, REMOVAL, SYMLINK, PlannedEntry, plan_folders
from inlay.errors import SolveError
from inlay.golang.patterns import clean
from inlay.llb.ops import Copy, MakeDirectory, MakeFile, Symlink
from inlay.trees.tree import shown
from inlay.trees.walking import glob
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.actions.files.entries import Destination, Owner, Plan
    from inlay.llb.ops import Action, Remove
    from inlay.trees.tree import Tree


def plan_action(
    action: Action, destination: Destination, *, source: Tree | None, owner: Owner | None = None
) -> Plan:
    """What `action` does to `destination`. `source` is what a copy takes from, `owner` as `find_owner` says.

    Raises `SolveError` with BuildKit's sentences, of which paths are those inside the trees.
    """
    if isinstance(action, Copy):
        assert source is not None
        return _copy(action, destination, source, owner)
    if isinstance(action, MakeDirectory):
        return _make_directory(action, destination, owner)
    if isinstance(action, MakeFile):
        return _make_file(action, destination, owner)
    if isinstance(action, Symlink):
        return _symlink(action, destination, owner)
    return _remove(action, destination)


def _copy(action: Copy, destination: Destination, source: Tree, owner: Owner | None) -> Plan:
    """What a copy does, with all the sources that its wildcards name."""
    path, target = cleaned(action.src), cleaned(action.dest)
    if not action.create_dest_path:
        above = destination.resolve(clean("/" + action.dest)).rpartition("/")[0]
        if destination.lstat(above) is None:
            raise SolveError(f"failed to stat {shown(action.dest)}: no such file or directory")
    options = CopyOptions(
        owner=owner,
        mode=None if action.mode == -1 or action.mode_text else action.mode,
        change_mode=parse_mode(action.mode_text) if action.mode_text else None,
        timestamp=_timestamp(action.timestamp),
        follow_links=action.follow_symlink,
        contents_only=action.copy_dir_contents,
        replace_existing=action.replace_existing,
        include_patterns=action.include_patterns,
        exclude_patterns=action.exclude_patterns,
    )
    paths = [path]
    if action.allow_wildcard:
        paths = list(glob(source, path, follow_links=action.follow_symlink))
        if not paths and not action.allow_empty_wildcard:
            raise SolveError(f"{shown(path)} not found")
    for one in paths:
        if action.unpack and _is_archive(source, one):
            from inlay.actions.files.unpack import plan_unpack

            yield from plan_unpack(
                source, one, destination, clean(target), owner=owner, timestamp=options.timestamp
            )
        else:
            yield from plan_copy(source, one, destination, target, options)


def _is_archive(source: Tree, path: str) -> bool:
    from inlay.actions.files.unpack import is_archive

    return is_archive(source, path)


def _make_directory(action: MakeDirectory, destination: Destination, owner: Owner | None) -> Plan:
    path = destination.resolve(action.path)
    if not action.make_parents and (above := path.rpartition("/")[0]) and destination.lstat(above) is None:
        raise SolveError(f"mkdir {shown(action.path)}: no such file or directory")
    if not action.make_parents and destination.lstat(path) is not None:
        return  # whatever it is
    timestamp = _timestamp(action.timestamp)
    yield from plan_folders(destination, path, mode=action.mode, owner=owner, timestamp=timestamp)


def _make_file(action: MakeFile, destination: Destination, owner: Owner | None) -> Plan:
    """Write a file; one that is there keeps its mode and, without a new owner, its owner."""
    path = destination.resolve(clean("/" + action.path))
    there = destination.lstat(path)
    if there is not None and not mode_bits.S_ISREG(there.st_mode):
        reason = "is a directory" if mode_bits.S_ISDIR(there.st_mode) else "is not a regular file"
        raise SolveError(f"open {shown(path)}: {reason}")
    if destination.lstat(path.rpartition("/")[0]) is None:
        raise SolveError(f"open {shown(path)}: no such file or directory")
    yield PlannedEntry(
        FILE,
        path,
        mode=action.mode & 0o777 if there is None else there.st_mode & 0o7777,
        owner=owner or (there and (there.st_uid, there.st_gid)),
        times=_both(_timestamp(action.timestamp)),
        content=action.data,
        replaces=there is not None,
    )


def _symlink(action: Symlink, destination: Destination, owner: Owner | None) -> Plan:
    path = destination.resolve(clean("/" + action.new_path))
    if destination.lstat(path) is not None:
        raise SolveError(f"symlink {shown(action.old_path)} {shown(path)}: file exists")
    times = _both(_timestamp(action.timestamp))
    yield PlannedEntry(SYMLINK, path, owner=owner, times=times, link=action.old_path)


def _remove(action: Remove, destination: Destination) -> Plan:
    paths = [action.path]
    if action.allow_wildcard:
        paths = destination.glob(cleaned(action.path))
    for path in paths:
        above, _, name = clean("/" + path).rpartition("/")
        if not name:
            raise SolveError("rmPath: invalid empty path")
        target = f"{destination.resolve(above)}/{name}"
        there = destination.lstat(target)
        if there is not None:
            yield PlannedEntry(REMOVAL, target)
        elif not action.allow_not_found:
            raise SolveError(f"stat {shown(target)}: no such file or directory")


def cleaned(path: str) -> str:
    """`path` from the root on, cleaned; a slash at its end, and a dot after that, stay."""
    plain = clean("/" + path)
    if path.endswith("/."):
        return "/." if plain == "/" else plain + "/."
    return plain + "/" if path.endswith("/") and plain != "/" else plain


def _timestamp(value: int) -> int | None:
    return None if value == -1 else value


def _both(timestamp: int | None) -> tuple[int, int] | None:
    return None if timestamp is None else (timestamp, timestamp)
