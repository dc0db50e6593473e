"""A real BuildKit to compare with, and what its progress says."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from running import run_inlay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

STEP = re.compile(r"^#(\d+) (\[(?!internal)[^\]]*\] (?!FROM)(?:RUN|COPY|ADD|WORKDIR|LINK).*)", re.M)
_BUILDCTL = {"--cache-to": "--export-cache", "--cache-from": "--import-cache"}
_LOST_RACE = "provided digest did not match uploaded content"
"""What docker-registry says when BuildKit pushes a blob for an image and for a cache at the same time."""


class Daemon:
    """A buildkitd of its own, and buildctl for it."""

    def __init__(self, folder: Path, host: str) -> None:
        self.address = f"unix://{folder}/bk.sock"
        self._folder = folder
        (folder / "bk.toml").write_text(
            f'root = "{folder}/bk"\ninsecure-entitlements = ["network.host", "security.insecure"]\n'
            f'[grpc]\n address = ["{self.address}"]\n[worker.oci]\n enabled = true\n networkMode = "host"\n'
            f'[worker.containerd]\n enabled = false\n[registry."{host}"]\n http = true\n insecure = true\n'
        )
        self.start()

    def start(self) -> None:
        """Begin with nothing in any cache."""
        shutil.rmtree(self._folder / "bk", ignore_errors=True)
        self.process = subprocess.Popen(
            ["buildkitd", "--config", str(self._folder / "bk.toml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            if self.ctl("debug", "workers").returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("buildkitd did not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def restart(self) -> None:
        """Forget everything: `prune` keeps keys in memory."""
        self.stop()
        self.start()

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["buildctl", "--addr", self.address, *arguments], capture_output=True, text=True, check=False
        )


class Build(NamedTuple):
    """One build, as each of the builders wants to be told of it."""

    buildctl: Sequence[str]
    inlay: Sequence[str]


def of_folder(context: Path) -> Build:
    """The Dockerfile in `context`, and that as context."""
    return Build(["--local", f"context={context}", "--local", f"dockerfile={context}"], [str(context)])


class Builders:
    """Both builders. Each build begins with nothing but what it imports, and is pushed as `name`, if given;
    `caches` are `--cache-to` and `--cache-from` in inlay's spelling."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._daemon = daemon
        self._folder = folder
        self._builds = 0

    def buildkit(self, build: Build, name: str, *caches: str) -> str:
        out = ("--output", f"type=image,name={name},push=true") if name else ()
        flags = (_BUILDCTL.get(flag, flag) for flag in caches)
        command = (
            *("build", "--progress", "plain", "--frontend", "dockerfile.v0"),
            *(*out, *flags, *build.buildctl),
        )
        for _ in range(3):
            self._daemon.restart()
            done = self._daemon.ctl(*command)
            if _LOST_RACE not in done.stderr:
                break
        assert done.returncode == 0, done.stderr
        return done.stderr

    def inlay(self, build: Build, name: str, *caches: str) -> str:
        self._builds += 1
        root = self._folder / f"store-{self._builds}"
        out = ("-t", name, "--push") if name else ("-o", "type=cacheonly")
        done = run_inlay("build", "--root", str(root), "--progress", "plain", *out, *caches, *build.inlay)
        shutil.rmtree(root, ignore_errors=True)
        assert done.code == 0, done.err
        return done.err

    def in_turn(self, first: str) -> tuple[Callable[..., str], Callable[..., str]]:
        """Both, the one called `first` first."""
        return (self.buildkit, self.inlay) if first == "buildkit" else (self.inlay, self.buildkit)


def cached(output: str) -> tuple[int, int]:
    """Steps that say CACHED, of all steps. An ADD of a URL shows twice: its download is never cached."""
    steps: dict[str, bool] = {}
    for number, name in STEP.findall(output):
        hit = bool(re.search(rf"^#{number} CACHED$", output, re.M))
        steps[name] = steps.get(name, False) or hit
    return sum(steps.values()), len(steps)
