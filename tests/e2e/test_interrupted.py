"""Builds that are stopped in the middle, and builds side by side, leave nothing half-done."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SLEEP_S = "987654"


@pytest.fixture
def sleeper(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        f"FROM {base}\nRUN echo made > /made\nRUN echo begun && sleep {SLEEP_S}\n"
    )
    return folder


def start(context: Path, store: Path, runtime: str) -> subprocess.Popen[bytes]:
    """Start a build and wait until its last step runs."""
    command = [sys.executable, "-m", "inlay", "build", "--root", str(store), "--runtime", runtime]
    process = subprocess.Popen(
        [*command, "--progress", "plain", "-t", "never", str(context)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.endswith(b" begun\n"):
            return process
    raise AssertionError("the step did not begin")


def sleeps() -> list[str]:
    """Processes of the step that are still there."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read()
        except OSError:
            continue
        if command.startswith(b"sleep\0") and SLEEP_S.encode() in command:
            found.append(pid)
    return found


def gone(within_s: float) -> bool:
    end = time.monotonic() + within_s
    while sleeps():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("runtime", ["crun", "runc", "builtin"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_build_leaves_no_process_mount_or_image(
    inlay: Callable[..., Any], sleeper: Path, tmp_path: Path, runtime: str, how: signal.Signals
) -> None:
    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    store = tmp_path / "s"
    process = start(sleeper, store, runtime)
    process.send_signal(how)
    assert process.stderr is not None
    process.stderr.read()
    process.stderr.close()
    code = process.wait(20)
    assert code == (130 if how == signal.SIGINT else -9)
    assert gone(within_s=10)
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        assert str(store) not in mounts.read()
    assert not (store / "index.json").exists()

    (sleeper / "Dockerfile").write_text(
        (sleeper / "Dockerfile").read_text().replace(f"sleep {SLEEP_S}", "true")
    )
    done = inlay("build", "--progress", "plain", "--root", str(store), "-t", "now", str(sleeper))
    assert done.code == 0, done.err
    assert done.cached == 1  # the step that was complete
    assert os.listdir(store / "snapshots/new") == []


def test_builds_side_by_side_on_one_store(base: str, tmp_path: Path) -> None:
    builds = []
    for number in range(4):
        folder = tmp_path / f"context-{number}"
        folder.mkdir()
        (folder / "Dockerfile").write_text(
            f"FROM {base}\nRUN echo same > /same\nRUN echo {number % 2} > /other\nCOPY Dockerfile /\n"
        )
        command = [sys.executable, "-m", "inlay", "build", "-q", "--root", str(tmp_path / "s")]
        builds.append(
            subprocess.Popen(
                [*command, "-t", f"side-{number}", str(folder)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    outcomes = [(*build.communicate(timeout=120), build.returncode) for build in builds]
    assert [code for _, _, code in outcomes] == [0, 0, 0, 0], outcomes
    assert all(out.startswith(b"sha256:") for out, _, _ in outcomes)
