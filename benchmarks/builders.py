"""The builders that are compared: how each builds and pushes, and how its state is wiped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Cost(NamedTuple):
    """What a build took: seconds by the clock and of CPU, and the resident size of its largest process in bytes.

    For a builder with a daemon, `cpu` and `memory` are those of its client only.
    """

    seconds: float
    memory: int
    cpu: float


class Builder(Protocol):
    """One builder with its own state. `version` is what it says of itself."""

    name: str
    version: str

    def wipe(self) -> None:
        """Forget all images and all cache."""

    def build(self, context: str, reference: str, cache_from: str = "") -> Cost:
        """Build `context`, push image and cache; raise `SystemExit` with the output's end if that fails."""

    def close(self) -> None:
        """End what runs."""


class Inlay:
    name = "inlay"

    def __init__(self, state: str, host: str) -> None:
        self._root = f"{state}/inlay"
        beside = os.path.join(os.path.dirname(sys.executable), "inlay")
        self._program = beside if os.path.exists(beside) else "inlay"
        self.version = _output(self._program, "--version")

    def wipe(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def build(self, context: str, reference: str, cache_from: str = "") -> Cost:
        return _run(*self.command(context, reference, cache_from))

    def command(self, context: str, reference: str, cache_from: str = "") -> list[str]:
        """The command line of `build`."""
        cache = ["--cache-from", cache_from] if cache_from else []
        options = ["--root", self._root, "--progress=plain", "--push", "--cache-to", "type=inline", *cache]
        return [self._program, "build", *options, "-t", reference, context]

    def close(self) -> None:
        pass


class BuildKit:
    """`buildctl` with a daemon that is warm; neither its start nor its memory counts."""

    name = "buildkit"

    def __init__(self, state: str, host: str) -> None:
        self.version = " ".join(_output("buildkitd", "--version").split()[:3])
        address = f"unix://{state}/buildkit.sock"
        self._client = ["buildctl", "--addr", address]
        with open(f"{state}/buildkitd.toml", "w", encoding="utf-8") as config:
            config.write(_BUILDKITD.format(state=state, address=address, host=host))
        command = ["buildkitd", "--config", config.name]
        self._daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(
            lambda: subprocess.run([*self._client, "debug", "workers"], capture_output=True).returncode == 0
        )

    def wipe(self) -> None:
        subprocess.run([*self._client, "prune", "--all"], check=True, capture_output=True)

    def build(self, context: str, reference: str, cache_from: str = "") -> Cost:
        local = ["--local", f"context={context}", "--local", f"dockerfile={context}"]
        output = ["--output", f"type=image,name={reference},push=true", "--export-cache", "type=inline"]
        cache = ["--import-cache", f"type=registry,ref={cache_from}"] if cache_from else []
        frontend = ["--progress", "plain", "--frontend", "dockerfile.v0"]
        return _run(*self._client, "build", *frontend, *local, *output, *cache)

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait(30)


class Buildah:
    """`buildah build --layers` and `buildah push`; its cache travels in a repository of its own."""

    name = "buildah"

    def __init__(self, state: str, host: str) -> None:
        store = ["--root", f"{state}/buildah/root", "--runroot", f"{state}/buildah/run"]
        self._client = ["buildah", "--storage-driver", "overlay", *store]
        self.version = " ".join(_output("buildah", "--version").split()[:3])

    def wipe(self) -> None:
        subprocess.run([*self._client, "rmi", "--all", "--force"], capture_output=True)

    def build(self, context: str, reference: str, cache_from: str = "") -> Cost:
        cache = ["--cache-from" if cache_from else "--cache-to", reference.rpartition(":")[0] + "/cache"]
        options = ["--tls-verify=false", "--runtime", "runc", "--network", "host", "--layers", *cache]
        built = _run(*self._client, "build", *options, "-t", reference, context)
        pushed = _run(*self._client, "push", "--tls-verify=false", reference)
        memory = max(built.memory, pushed.memory)
        return Cost(built.seconds + pushed.seconds, memory, built.cpu + pushed.cpu)

    def close(self) -> None:
        pass


ALL = {builder.name: builder for builder in (Inlay, BuildKit, Buildah)}

_PROGRAMS = {"inlay": (), "buildkit": ("buildkitd", "buildctl"), "buildah": ("buildah", "runc")}

_BUILDKITD = """\
root = "{state}/buildkit"
[grpc]
  address = ["{address}"]
[worker.oci]
  enabled = true
  snapshotter = "overlayfs"
  networkMode = "host"
[worker.containerd]
  enabled = false
[registry."{host}"]
  http = true
  insecure = true
"""


def installed() -> list[str]:
    """Names of the builders whose programs are on PATH."""
    return [name for name in _PROGRAMS if not missing(name)]


def missing(name: str) -> list[str]:
    """The programs of a builder that are not on PATH."""
    return [program for program in _PROGRAMS[name] if shutil.which(program) is None]


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    """Return once `condition()` is true; raise `SystemExit` if it stays false for `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("a daemon that the benchmark needs did not start")
        time.sleep(0.05)


_STARTER = """
import os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
text = f"{seconds} {usage.ru_maxrss << 10} {usage.ru_utime + usage.ru_stime}"
os.write(int(sys.argv[1]), text.encode())
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""
"""Starts and measures a command. Until a process has a program of its own, it counts for Linux as large as the one that
it was started from, which this small one keeps out of the figures."""


def _run(program: str, *arguments: str) -> Cost:
    command = [shutil.which(program) or program, *arguments]
    read, write = os.pipe()
    with open(read, "rb") as figures, open(os.devnull, "rb") as nothing, tempfile.TemporaryFile() as log:
        starter = [sys.executable, "-I", "-S", "-c", _STARTER, str(write), *command]
        process = subprocess.Popen(
            starter, stdin=nothing, stdout=log, stderr=subprocess.STDOUT, pass_fds=(write,)
        )
        os.close(write)
        seconds, memory, cpu = (figures.read() or b"0 0 0").split()
        if process.wait():
            log.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{log.read().decode(errors='replace')[-2000:]}")
    return Cost(float(seconds), int(memory), float(cpu))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
