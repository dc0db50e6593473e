"""A step lets go of all that it has mounted, whatever happens."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, cast

import pytest

from inlay.actions.cachemounts import CacheMounts
from inlay.actions.mounts import StepMounts
from inlay.errors import SolveError
from inlay.llb.ops import CACHE, EMPTY, LOCKED, CacheOption, ExecOp, Mount
from inlay.refs.ref import SCRATCH
from inlay.tasks import Limiter, all_done, run, start

if TYPE_CHECKING:
    from pathlib import Path

    from inlay.actions.worker import Result, Worker
    from inlay.refs.ref import Ref
    from inlay.refs.store import RefStore

OPTIONS = [CacheOption("a", LOCKED), CacheOption("b", LOCKED)]
CACHES = [Mount(EMPTY, "", f"/{each.id}", -1, type=CACHE, cache=each) for each in OPTIONS]
ROOT = Mount(EMPTY, "", "/")


class BrokenDisk:
    """The root of a step, which cannot be deleted."""

    fd = -1
    path = "/nowhere"

    def discard(self) -> None:
        raise OSError("the disk is broken")


class OneRoot:
    """As much of a worker as mounts take."""

    def __init__(self, root: Path) -> None:
        self.refs = self.mounted = self
        self.disk = Limiter(1)
        self.cache_mounts = CacheMounts(str(root), cast("RefStore", self))

    async def as_layers(self, result: Result) -> Ref:
        return SCRATCH

    async def prepare(self, ref: Ref) -> BrokenDisk:
        return BrokenDisk()

    def are_free(self) -> bool:
        """Whether another step could have both caches at once."""

        async def take() -> None:
            for option in OPTIONS:
                (await self.cache_mounts.take(option, None)).release()

        thread = threading.Thread(target=lambda: run(take()), daemon=True)
        thread.start()
        thread.join(5)
        return not thread.is_alive()


@pytest.fixture
def worker(tmp_path: Path) -> OneRoot:
    return OneRoot(tmp_path)


def test_one_that_cannot_be_undone_does_not_keep_the_others(worker: OneRoot) -> None:
    async def step() -> None:
        async with StepMounts(cast("Worker", worker), ExecOp(None, (*CACHES, ROOT)), []):
            assert not worker.are_free()

    with pytest.raises(OSError, match="the disk is broken"):
        run(step())
    assert worker.are_free()


def test_a_cache_that_is_taken_for_a_step_that_is_cancelled_is_let_go_of(worker: OneRoot) -> None:
    async def step() -> None:
        taking = start(worker.cache_mounts.take(OPTIONS[0], None))
        time.sleep(0.3)  # by now it is taken, and not yet handed over
        taking.cancel()
        await all_done([taking])

    run(step())
    assert worker.are_free()


def test_a_step_without_a_root_keeps_nothing(worker: OneRoot) -> None:
    async def step() -> None:
        async with StepMounts(cast("Worker", worker), ExecOp(None, tuple(CACHES)), []):
            raise AssertionError("it has no root")

    with pytest.raises(SolveError, match="needs a mount at /"):
        run(step())
    assert worker.are_free()


class FullDisk(BrokenDisk):
    """The root of a step, which cannot be kept."""

    def __init__(self) -> None:
        self.is_there = True

    def commit(self, lower: object = None) -> str:
        raise OSError("the disk is full")

    def discard(self) -> None:
        self.is_there = False


def test_what_a_step_wrote_and_cannot_be_kept_is_deleted(worker: OneRoot) -> None:
    root = FullDisk()

    async def prepare(ref: Ref) -> FullDisk:
        return root

    worker.prepare = prepare  # type: ignore[assignment, method-assign]

    async def step() -> None:
        async with StepMounts(cast("Worker", worker), ExecOp(None, (ROOT,)), []) as mounts:
            await mounts.commit("a step")

    with pytest.raises(OSError, match="the disk is full"):
        run(step())
    assert not root.is_there
