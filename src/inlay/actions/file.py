"""COPY, ADD, WORKDIR and the like: file actions on trees (BuildKit: solver/llbsolver/file/backend.go)."""

from __future__ import annotations

import stat as mode_bits
from typing import TYPE_CHECKING

from inlay.actions.copying import CopyOptions, plan_copy, plan_glob
from inlay.actions.entries import FILE, REMOVAL, SYMLINK, PlannedEntry, plan_folders
from inlay.archive.tree import shown
from inlay.errors import SolveError
from inlay.llb.ops import Copy, MakeDirectory, MakeFile, Remove, Symlink
from inlay.patterns import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inlay.actions.entries import Destination, Owner
    from inlay.archive.tree import Tree
    from inlay.llb.ops import Action


def plan_action(
    action: Action, destination: Destination, *, source: Tree | None = None, owner: Owner | None = None
) -> Iterator[PlannedEntry]:
    """What `action` does to `destination`. `source` is what a copy takes from, None for scratch.

    Raises `SolveError` with BuildKit's sentences, of which paths are those inside the trees.
    """
    if isinstance(action, Copy):
        return plan_copy_action(action, destination, source, owner)
    if isinstance(action, MakeDirectory):
        return _make_directory(action, destination, owner)
    if isinstance(action, MakeFile):
        return _make_file(action, destination, owner)
    if isinstance(action, Symlink):
        return _symlink(action, destination, owner)
    return _remove(action, destination)


def plan_copy_action(
    action: Copy, destination: Destination, source: Tree, owner: Owner | None
) -> Iterator[PlannedEntry]:
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
        paths = list(plan_glob(source, path, follow_links=action.follow_symlink))
        if not paths and not action.allow_empty_wildcard:
            raise SolveError(f"{shown(path)} not found")
    for one in paths:
        if action.unpack and is_archive(source, one):
            yield from plan_unpack(source, one, destination, clean(target), owner, options.timestamp)
        else:
            yield from plan_copy(source, one, destination, target, options)
