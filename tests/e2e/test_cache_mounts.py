"""RUN --mount=type=cache: whose folder a step gets, how it looks, and two builds at once."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from running import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.root]


class Kitchen:
    """Builds of one store, each of a Dockerfile of its own."""

    def __init__(self, folder: Path, base: str, run: Callable[..., Outcome]) -> None:
        self.folder = folder
        self.store = folder / "store"
        self._base = base
        self._run = run
        self._made = 0

    def context(self, *lines: str, stage: str = "") -> str:
        self._made += 1
        folder = self.folder / f"context-{self._made}"
        folder.mkdir()
        (folder / "Dockerfile").write_text("\n".join([stage, f"FROM {self._base}", *lines, ""]))
        return str(folder)

    def command(self, context: str) -> list[str]:
        return ["build", "--root", str(self.store), "--progress", "plain", "--no-cache", context]

    def build(self, *lines: str, stage: str = "") -> str:
        done = self._run(*self.command(self.context(*lines, stage=stage)))
        assert done.code == 0, done.err
        return done.err

    def start(self, *lines: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "inlay", *self.command(self.context(*lines))]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def kitchen(tmp_path: Path, base: str, inlay: Callable[..., Outcome]) -> Kitchen:
    return Kitchen(tmp_path, base, inlay)


def test_the_target_is_the_default_id_and_ids_are_kept_apart(kitchen: Kitchen) -> None:
    kitchen.build(
        "RUN --mount=type=cache,target=/c echo one > /c/f",
        "RUN --mount=type=cache,target=/c test $(cat /c/f) = one",
        "RUN --mount=type=cache,target=/other test ! -e /other/f",
        "RUN --mount=type=cache,id=mine,target=/c test ! -e /c/f && echo two > /c/f",
        "RUN --mount=type=cache,id=mine,target=/elsewhere test $(cat /elsewhere/f) = two",
        "RUN --mount=type=cache,target=/mine test ! -e /mine/f",
    )
    kitchen.build("RUN --mount=type=cache,target=/c test $(cat /c/f) = one")


def test_a_new_folder_has_the_owner_and_mode_of_its_mount(kitchen: Kitchen) -> None:
    kitchen.build(
        "RUN --mount=type=cache,target=/plain test $(stat -c %u:%g:%a /plain) = 0:0:755",
        "RUN --mount=type=cache,target=/c,uid=1000,gid=1001,mode=0750 "
        "test $(stat -c %u:%g:%a /c) = 1000:1001:750 && touch /c/f",
        "USER 1000",
        "RUN --mount=type=cache,target=/c,uid=1000,gid=1001,mode=0750 test -e /c/f && touch /c/g",
    )


def test_a_folder_begins_with_what_from_names(kitchen: Kitchen) -> None:
    stage = "FROM scratch AS seed\nCOPY Dockerfile /start/recipe"
    kitchen.build(
        "RUN --mount=type=cache,from=seed,source=/start,target=/c test -e /c/recipe && echo more > /c/more",
        "RUN --mount=type=cache,from=seed,source=/start,target=/c test -e /c/recipe && test -e /c/more",
        "RUN --mount=type=cache,target=/c test ! -e /c/recipe",
        stage=stage,
    )


def test_a_readonly_folder_cannot_be_written(kitchen: Kitchen) -> None:
    kitchen.build(
        "RUN --mount=type=cache,target=/c echo one > /c/f",
        "RUN --mount=type=cache,target=/c,readonly test $(cat /c/f) = one && ! touch /c/g",
        "RUN --mount=type=cache,target=/c test ! -e /c/g",
    )


@pytest.mark.parametrize("sharing", ["shared", "locked", "private"])
def test_all_mounts_of_one_id_in_a_step_are_one_folder(kitchen: Kitchen, sharing: str) -> None:
    mount = f"--mount=type=cache,id=mine,sharing={sharing},target="
    kitchen.build(f"RUN {mount}/c {mount}/d touch /c/f && test -e /d/f")


def test_a_step_holds_no_folder_while_it_waits_for_one_that_comes_before(kitchen: Kitchen) -> None:
    """Or two steps that name the same two in different order would wait for each other."""
    one, two = (f"--mount=type=cache,id={each},sharing=locked,target=/" for each in "ab")
    kitchen.build(f"RUN {one}x {two}y true")
    folders = [folder.parent for folder in data(kitchen)]
    first, second = sorted(folders, key=lambda folder: (folder / "id").read_text())
    with (first / "lock").open() as held, (second / "lock").open() as free:
        fcntl.flock(held, fcntl.LOCK_EX)
        step = kitchen.start(f"RUN {two}x {one}y true")  # mounts are made in the order of their targets
        assert step.stderr is not None
        while "] RUN " not in step.stderr.readline():
            assert step.poll() is None
        time.sleep(1)
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)
    step.communicate(timeout=60)
    assert step.returncode == 0


def data(kitchen: Kitchen) -> list[Path]:
    return list((kitchen.store / "mounts").glob("[!.]*/data"))  # not those that are still being made


BUSY = "touch /c/begun-$WHO && n=0; while [ ! -e /c/go ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done"


@pytest.mark.parametrize("sharing", ["shared", "locked", "private"])
def test_two_builds_at_once_share_a_folder_wait_for_it_or_have_two(kitchen: Kitchen, sharing: str) -> None:
    mount = f"--mount=type=cache,target=/c,sharing={sharing}"
    first = kitchen.start(f"RUN {mount} WHO=1; {BUSY}; touch /c/done-1")
    wait_until(lambda: data(kitchen))
    (folder,) = data(kitchen)
    wait_until((folder / "begun-1").exists)
    second = kitchen.start(f"RUN {mount} WHO=2; ls /c; touch /c/begun-2")
    if sharing == "locked":
        assert second.stderr is not None
        assert any(" RUN " in line for line in second.stderr)  # its turn has come, and then
        time.sleep(0.3)
        assert second.poll() is None
        assert not (folder / "begun-2").exists()
    else:
        assert second.wait(60) == 0
    assert not (folder / "done-1").exists()
    (folder / "go").touch()
    assert first.wait(60) == 0
    assert second.wait(60) == 0
    for build in (first, second):
        assert build.stderr is not None
        build.stderr.close()
    assert len(data(kitchen)) == (2 if sharing == "private" else 1)
    assert (folder / "begun-2").exists() == (sharing != "private")
