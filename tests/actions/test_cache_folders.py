"""actions.cachemounts: cache folders on disk: sharing, listing, deleting, and what kill -9 leaves."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING, cast

import pytest

from inlay import tasks
from inlay.actions.cachemounts import (
    CacheMounts,
    cache_folders,
    remove_cache_folder,
    sweep_cache_folders,
)
from inlay.llb.ops import LOCKED, PRIVATE, SHARED, CacheOption

if TYPE_CHECKING:
    from pathlib import Path

    from inlay.actions.cachemounts import CacheMount
    from inlay.refs.store import RefStore


def take(root: Path, sharing: int = SHARED, name: str = "//c") -> CacheMount:
    mounts = CacheMounts(str(root), cast("RefStore", None))  # there is no base to look up
    return tasks.run(mounts.take(CacheOption(name, sharing), None))


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [(SHARED, SHARED, False), (LOCKED, LOCKED, True), (SHARED, LOCKED, True), (LOCKED, SHARED, True)],
)
def test_shared_folders_are_shared_and_locked_ones_waited_for(
    tmp_path: Path, first: int, second: int, waits: bool
) -> None:
    held = take(tmp_path, first)
    got: list[CacheMount] = []
    thread = threading.Thread(target=lambda: got.append(take(tmp_path, second)))
    thread.start()
    thread.join(0.15 if waits else 30)
    assert bool(got) is not waits
    held.release()
    thread.join(30)
    assert got[0].path == held.path
    got[0].release()


def test_a_private_folder_in_use_makes_another_one_which_is_used_again(tmp_path: Path) -> None:
    one, two = take(tmp_path, PRIVATE), take(tmp_path, PRIVATE)
    assert one.path != two.path
    one.release()
    two.release()
    again = take(tmp_path, PRIVATE)
    assert again.path == one.path
    again.release()


def test_folders_are_listed_with_their_id_and_last_use(tmp_path: Path) -> None:
    before = time.time() - 1
    for name in ("//c", "ns/d"):
        take(tmp_path, name=name).release()
    found = list(cache_folders(str(tmp_path)))
    assert sorted(each.id for each in found) == ["//c", "ns/d"]
    assert all(before < each.used <= time.time() + 1 for each in found)


def test_a_folder_in_use_is_not_deleted(tmp_path: Path) -> None:
    mount = take(tmp_path)
    (folder,) = cache_folders(str(tmp_path))
    assert not remove_cache_folder(folder.folder)
    mount.release()
    assert remove_cache_folder(folder.folder)
    assert os.listdir(tmp_path / "mounts") == []
    assert not remove_cache_folder(folder.folder)


def test_whoever_waits_for_a_folder_that_is_deleted_gets_a_new_one(tmp_path: Path) -> None:
    held = take(tmp_path, LOCKED)
    (folder,) = cache_folders(str(tmp_path))
    (tmp_path / "mounts" / os.path.basename(folder.folder) / "data/old").touch()
    waiting: list[CacheMount] = []
    thread = threading.Thread(target=lambda: waiting.append(take(tmp_path, LOCKED)))
    thread.start()
    time.sleep(0.1)
    os.rename(folder.folder, tmp_path / "doomed")  # as a deletion begins
    held.release()
    thread.join(10)
    assert os.listdir(waiting[0].path) == []
    waiting[0].release()


def test_what_was_half_made_is_swept_unless_somebody_makes_it(tmp_path: Path) -> None:
    take(tmp_path).release()
    for name in (".new-dead", ".new-alive"):
        (tmp_path / "mounts" / name / "data/deep").mkdir(parents=True)
    alive = os.open(tmp_path / "mounts/.new-alive", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    assert sweep_cache_folders(str(tmp_path)) == 1
    os.close(alive)
    assert sorted(name[:5] for name in os.listdir(tmp_path / "mounts"))[0] == ".new-"
    assert sweep_cache_folders(str(tmp_path)) == 1
    assert sweep_cache_folders(str(tmp_path)) == 0
    assert len(list(cache_folders(str(tmp_path)))) == 1
