"""Builds that are stopped in the middle, and builds side by side, leave nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from inlay.executor.cgroup import own_group
from ordinary import GID, UID
from processes import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fake_registry import Exchange, FakeRegistry
    from ordinary import User

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SLEEP_S = str(987_000_000 + os.getpid())
"""Tells the processes of these tests from those of others."""


@pytest.fixture
def sleeper(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        f"FROM {base}\nRUN echo made > /made\n"
        f"RUN (setsid sleep {SLEEP_S} > /dev/null 2>&1 &) & echo begun && sleep {SLEEP_S}\n"
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


def cgroups_of(pid: int) -> list[str]:
    """The cgroups that the build with the number `pid` made."""
    try:
        names = os.listdir(own_group())
    except FileNotFoundError:
        return []
    return [name for name in names if name.startswith(f"inlay-{pid}-")]


@pytest.mark.parametrize("runtime", ["crun", "runc", "builtin"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
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
    assert code == (-9 if how == signal.SIGKILL else 128 + how)
    wait_until(lambda: not processes_with(f"sleep\0{SLEEP_S}"))
    assert how == signal.SIGKILL or cgroups_of(process.pid) == []
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        assert str(store) not in mounts.read()
    assert not (store / "index.json").exists()

    (sleeper / "Dockerfile").write_text((sleeper / "Dockerfile").read_text().replace(SLEEP_S, "0"))
    done = inlay("build", "--progress", "plain", "--root", str(store), "-t", "now", str(sleeper))
    assert done.code == 0, done.err
    assert done.cached == 1  # the step that was complete
    assert os.listdir(store / "snapshots/new") == []
    assert cgroups_of(process.pid) == []


@pytest.mark.parametrize(
    ("moment", "code", "said"),
    [("use = lambda: press()", 130, "inlay: interrupted\n"), ("renew = lambda modules: press()", 0, "")],
)
def test_ctrl_c_around_what_the_program_does_is_no_traceback(moment: str, code: int, said: str) -> None:
    press = "import os, signal; press = lambda: os.kill(os.getpid(), signal.SIGINT)"
    program = f"{press}; from inlay import __main__, bytecode; bytecode.{moment}; __main__.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "completion", "bash"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, said)


def test_a_build_that_another_thread_cancels_leaves_no_process_mount_or_image(
    sleeper: Path, tmp_path: Path
) -> None:
    import inlay as library
    from inlay.progress.events import Log

    cancellation, store = library.Cancellation(), tmp_path / "s"
    others = cgroups_of(os.getpid())  # of executors that tests of the whole session share

    def cancel_in_silence(event: object) -> None:
        if isinstance(event, Log) and b"begun" in event.data:
            threading.Timer(0.1, cancellation.cancel).start()

    with pytest.raises(library.BuildCancelled):
        library.build(
            sleeper, root=store, tags=["never"], on_event=cancel_in_silence, cancellation=cancellation
        )
    assert not processes_with(f"sleep\0{SLEEP_S}")
    assert cgroups_of(os.getpid()) == others
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        assert str(store) not in mounts.read()
    assert not (store / "index.json").exists()
    with pytest.raises(library.BuildCancelled):  # it stays cancelled
        library.build(sleeper, root=store, require_cached=True, cancellation=cancellation)


@pytest.mark.parametrize("who", ["root", "user"])
def test_builds_side_by_side_on_one_store(
    users: Callable[..., User], base: str, tmp_path: Path, who: str
) -> None:
    builds, user = [], users()
    place = tmp_path if who == "root" else user.home
    for number in range(4):
        folder = place / f"context-{number}"
        folder.mkdir()
        (folder / "Dockerfile").write_text(
            f"FROM {base}\nRUN echo same > /same\nRUN echo {number % 2} > /other\nCOPY Dockerfile /\n"
        )
        command = [sys.executable, "-m", "inlay", "build", "-q", "--root", str(place / "s")]
        command += ["-t", f"side-{number}", str(folder)]
        builds.append(
            subprocess.Popen(
                command if who == "root" else user.command(*command),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ if who == "root" else user.environment,
                cwd="/",
            )
        )
    outcomes = [(*build.communicate(timeout=120), build.returncode) for build in builds]
    assert [code for _, _, code in outcomes] == [0, 0, 0, 0], outcomes
    assert all(out.startswith(b"sha256:") for out, _, _ in outcomes)


def test_killed_builds_do_no_harm_to_those_beside_them(
    inlay: Callable[..., Any], base: str, tmp_path: Path
) -> None:
    store, context = tmp_path / "s", tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {base} AS one\nRUN head -c 3m /dev/urandom > /big && echo 1 > /x\nRUN echo 2 >> /x\n"
        f"FROM {base}\nRUN sleep 0.1 && echo 3 > /y\nCOPY --from=one /x /big /\nRUN wc -c /big && cat /x /y > /z\n"
    )
    command = [sys.executable, "-m", "inlay", "build", "-q", "--root", str(store), str(context)]
    survived = 0
    for round_ in range(6):
        builds = [
            subprocess.Popen(
                [*command, "-t", f"t{number}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            for number in range(3)
        ]
        time.sleep(0.1 + 0.15 * round_)
        for doomed in builds[: 2 if round_ < 5 else 1]:
            doomed.kill()
        for build in builds:
            _, errors = build.communicate(timeout=120)
            assert build.returncode in (0, -9), errors.decode()
            survived += build.returncode == 0
    assert survived >= 7
    done = inlay(
        "build", "--root", str(store), "--progress", "plain", "-o", str(tmp_path / "out"), str(context)
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out/z").read_text() == "1\n2\n3\n"
    assert (tmp_path / "out/big").stat().st_size == 3 << 20
    assert os.listdir(store / "snapshots/new") == []


WRITING = """
import sys, time
from inlay.content.store import ContentStore
ingest = ContentStore(sys.argv[1]).ingest()
ingest.write(b"half of it")
print("begun", flush=True)
time.sleep(600)
"""


def test_the_next_call_cleans_up_after_killed_ones(
    inlay: Callable[..., Any], sleeper: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    build = start(sleeper, store, "builtin")
    writer = subprocess.Popen([sys.executable, "-c", WRITING, str(store)], stdout=subprocess.PIPE)
    for process in (build, writer):
        stream = process.stderr or process.stdout
        assert stream is not None
        if process is writer:
            assert stream.readline() == b"begun\n"
        process.kill()
        stream.close()
        process.wait(20)
    (store / "mounts/.new-0123/data").mkdir(parents=True)
    wait_until(lambda: not processes_with(f"sleep\0{SLEEP_S}"))
    assert len(os.listdir(store / "snapshots/new")) == 1
    assert len(os.listdir(store / "ingest")) == 1

    (sleeper / "Dockerfile").write_text("FROM scratch\nLABEL nothing=runs\n")
    done = inlay("build", "-q", "--root", str(store), str(sleeper))
    assert done.code == 0, done.err
    assert os.listdir(store / "snapshots/new") == []
    assert not (store / "ingest").exists() or os.listdir(store / "ingest") == []
    assert os.listdir(store / "mounts") == []


@pytest.mark.parametrize("command", ["build", "du"])
def test_so_it_does_for_an_ordinary_user(
    users: Callable[..., User], sleeper: Path, rootfs: Path, command: str
) -> None:
    user = users()
    context, root = user.give(sleeper), user.home / "s"
    shutil.copy(rootfs, context / "rootfs.tar")
    step = (context / "Dockerfile").read_text().splitlines()[-1]
    (context / "Dockerfile").write_text(f"FROM scratch\nADD rootfs.tar /\nENV PATH=/bin\n{step}\n")
    build = (sys.executable, "-m", "inlay", "build", "--root", str(root), str(context))
    process = subprocess.Popen(user.command(*build), stderr=subprocess.DEVNULL, env=user.environment, cwd="/")
    wait_until(lambda: len(processes_with(f"sleep\0{SLEEP_S}")) == 2)
    process.kill()
    process.wait(20)
    wait_until(lambda: not processes_with(f"sleep\0{SLEEP_S}"))
    (trees,) = root.glob("ids-*")
    left = trees / "mounts/.new-0123/data"
    left.mkdir(parents=True)
    assert len(os.listdir(trees / "snapshots/new")) == 1
    call = (command, "--root", str(root), *([str(context)] if command == "build" else []))
    (context / "Dockerfile").write_text("FROM scratch\nLABEL nothing=runs\n")
    refused = user.inlay(*call)  # what is root's, a user cannot delete
    assert refused.code == 0, refused.err
    assert "left half-made cannot be deleted" in refused.err
    for folder in (left, left.parent, left.parent.parent):
        os.chown(folder, UID, GID)
    done = user.inlay(*call)
    assert done.code == 0, done.err
    assert "cannot" not in done.err
    assert os.listdir(trees / "snapshots/new") == os.listdir(trees / "mounts") == []


def test_a_build_in_progress_keeps_its_half_made_files(
    inlay: Callable[..., Any], sleeper: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    build = start(sleeper, store, "builtin")
    half_made = os.listdir(store / "snapshots/new")
    other = tmp_path / "other"
    other.mkdir()
    (other / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    done = inlay("build", "-q", "--root", str(store), str(other))
    assert done.code == 0, done.err
    assert os.listdir(store / "snapshots/new") == half_made
    build.send_signal(signal.SIGINT)
    assert build.stderr is not None
    build.stderr.read()
    build.stderr.close()
    assert build.wait(20) == 130


@pytest.mark.parametrize("what", ["push", "import", "pull", "pull beside a step that fails"])
def test_a_transfer_that_hangs_ends_with_the_build(
    inlay: Callable[..., Any], fake: FakeRegistry, base: str, tmp_path: Path, what: str
) -> None:
    folder, ref = tmp_path / "context", f"{fake.host}/app:1"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    build = ["build", "-q", "--root", str(tmp_path / "s"), "-t", ref, str(folder)]
    method, target = ("PUT", "/blobs/uploads/") if what == "push" else ("GET", "/manifests/")
    if what == "push":
        build.append("--push")
    else:
        assert inlay(*build, "--push", "--cache-to", "type=inline").code == 0
        build[3] = str(tmp_path / "other")
        build += ["--cache-from", ref]
    if what.startswith("pull"):
        target = f"/blobs/{json.loads(fake.manifests['app:1'][1])['layers'][0]['digest']}"
        (folder / "Dockerfile").write_text(f"FROM {ref}\nCOPY Dockerfile /again\n")
    if "fails" in what:
        (folder / "Dockerfile").write_text(
            f'FROM {ref} AS other\nRUN ["/no-program"]\n'
            f"FROM {base}\nRUN sleep 2; exit 7\nCOPY --from=other /again /\n"
        )
    asked, released = threading.Event(), threading.Event()

    def hang(registry: FakeRegistry, exchange: Exchange) -> None:
        asked.set()
        released.wait(60)
        exchange.close_after = True

    fake.fault(method, target, hang, times=99)
    command = [sys.executable, "-m", "inlay", *build]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert asked.wait(60)
        if "fails" not in what:
            process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1].decode()  # one try of a request takes twice that to fail
        assert process.returncode == (1 if "fails" in what else 130), said
    finally:
        process.kill()
        process.communicate()
        released.set()
