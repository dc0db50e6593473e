"""However a step is ended, all its processes end: also those that ignore signals, are stopped, or are daemons."""

from __future__ import annotations

import itertools
import os
import pty
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from processes import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ordinary import User
    from running import Outcome

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

STUBBORN = """set -e
trap '' TERM INT HUP
(setsid sh -c "trap '' TERM INT HUP; sleep @S@ & sleep @S@" > /dev/null 2>&1 &)
sleep @S@ &
until [ $(pidof sleep | wc -w) = 3 ]; do usleep 10000; done
kill -STOP $!
echo all are up
[ ! -d /c ] || touch /c/up
sleep @S@
"""
_number = itertools.count(1)


class Stage(NamedTuple):
    """Where a build of `context` runs: the command's beginning, its environment, and what tells its sleeps."""

    command: list[str]
    environment: dict[str, str]
    context: Path
    seconds: str
    started: list[subprocess.Popen[bytes]]

    def start(self, dockerfile: str, *flags: str, terminal: int | None = None) -> subprocess.Popen[bytes]:
        (self.context / "Dockerfile").write_text(dockerfile)
        (self.context / "stubborn").write_text(STUBBORN.replace("@S@", self.seconds))
        command = [*self.command, *flags, str(self.context)]
        if terminal is not None:
            process = subprocess.Popen(
                ["setsid", "--ctty", *command], stdin=terminal, stdout=terminal, stderr=terminal,
                env=self.environment, cwd="/",
            )  # fmt: skip
        else:
            process = subprocess.Popen(command, stderr=subprocess.PIPE, env=self.environment, cwd="/")
        self.started.append(process)
        return process

    def sleeps(self) -> list[int]:
        """The processes of the step that are there."""
        return processes_with(f"sleep\0{self.seconds}\0")

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.sleeps()) == count)


@pytest.fixture(params=["root-crun", "root-builtin", "user-runc", "user-builtin"])
def stage(
    request: pytest.FixtureRequest, rootfs: Path, users: Callable[..., User], tmp_path: Path
) -> Iterator[Stage]:
    """The contract of executors holds the others to the same."""
    who, _, runtime = request.param.partition("-")
    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy(rootfs, context / "rootfs.tar")
    build = [sys.executable, "-m", "inlay", "build", "--progress", "plain", "--runtime", runtime]
    seconds = f"{6_000_000 + next(_number)}.{os.getpid()}"
    started: list[subprocess.Popen[bytes]] = []
    if who == "root":
        yield Stage([*build, "--root", str(tmp_path / "s")], dict(os.environ), context, seconds, started)
    else:
        user = users()
        yield Stage(user.command(*build), user.environment, user.give(context), seconds, started)
    for process in started:
        process.kill()
        process.communicate()


BASE = "FROM scratch AS base\nADD rootfs.tar /\nENV PATH=/bin\n"
STEP = "FROM base AS other\nRUN --mount=target=/in sh /in/stubborn\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_by_a_signal_to_the_build(stage: Stage, how: signal.Signals) -> None:
    process = stage.start(BASE + STEP)
    stage.wait_for(4)
    process.send_signal(how)
    said = process.communicate(timeout=20)[1].decode()
    assert process.returncode == (-9 if how == signal.SIGKILL else 128 + how), said
    stage.wait_for(0)


def test_by_a_terminal_that_is_closed(stage: Stage) -> None:
    master, slave = pty.openpty()
    process = stage.start(BASE + STEP, terminal=slave)
    os.close(slave)
    stage.wait_for(4)
    os.close(master)
    assert process.wait(20) != 0
    stage.wait_for(0)


def test_by_a_step_beside_it_that_fails(stage: Stage) -> None:
    waits = "RUN until [ -e /c/up ]; do usleep 10000; done; exit 3\n"
    cache = " --mount=type=cache,target=/c"
    beside = f"FROM base\n{waits.replace('RUN', 'RUN' + cache)}COPY --from=other /bin/sh /x\n"
    step = STEP.replace("RUN", f"RUN{cache}")
    process = stage.start(BASE + step + beside)
    said = process.communicate(timeout=20)[1].decode()
    assert process.returncode == 1
    assert "exit code: 3" in said
    assert stage.sleeps() == []


def test_by_its_time_limit(stage: Stage) -> None:
    process = stage.start(BASE + STEP, "--step-timeout", "1s")
    said = process.communicate(timeout=20)[1].decode()
    assert process.returncode == 1
    assert said.rstrip("\n").splitlines()[-1] == (
        "inlay: Dockerfile:5: [other 1/1] RUN --mount=target=/in sh /in/stubborn: "
        'process "/bin/sh -c sh /in/stubborn" did not complete successfully: it took longer than 1 s '
        "(--step-timeout) and was ended"
    )
    assert " all are up\n" in said
    assert stage.sleeps() == []


def test_a_time_limit_is_each_steps_own(inlay: Callable[..., Outcome], rootfs: Path, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy(rootfs, context / "rootfs.tar")
    (context / "Dockerfile").write_text(f"{BASE}FROM base\nRUN sleep 0.6\nRUN sleep 0.6; touch /x\n")
    build = ("build", "--root", str(tmp_path / "s"), "--step-timeout")
    done = inlay(*build, "1s", str(context))
    assert done.code == 0, done.err
    endless = inlay(*build, "9999999999999h", "--no-cache", str(context))
    assert (endless.code, "Traceback" in endless.err) == (0, False)
    wrong = inlay(*build, "soon", str(context))
    assert (wrong.code, wrong.err) == (
        2,
        "inlay: --step-timeout soon: not a duration such as 90s, 24h or 7d\n",
    )
