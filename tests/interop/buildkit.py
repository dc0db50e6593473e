"""A real BuildKit to compare with, and what its progress says."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

STEP = re.compile(r"^#(\d+) \[(?!internal)[^\]]*\] (?!FROM)(?:RUN|COPY|ADD|WORKDIR|LINK)", re.M)


class Daemon:
    """A buildkitd of its own, and buildctl for it."""

    def __init__(self, folder: Path, host: str) -> None:
        self.address = f"unix://{folder}/bk.sock"
        (folder / "bk.toml").write_text(
            f'root = "{folder}/bk"\n[grpc]\n address = ["{self.address}"]\n[worker.oci]\n enabled = true\n'
            ' networkMode = "host"\n[worker.containerd]\n enabled = false\n'
            f'[registry."{host}"]\n http = true\n insecure = true\n'
        )
        self.process = subprocess.Popen(
            ["buildkitd", "--config", str(folder / "bk.toml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            if self.ctl("debug", "workers").returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("buildkitd did not start")

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["buildctl", "--addr", self.address, *arguments], capture_output=True, text=True, check=False
        )


def cached(output: str) -> tuple[int, int]:
    """Steps that say CACHED, of all steps."""
    steps = set(STEP.findall(output))
    return sum(bool(re.search(rf"^#{number} CACHED$", output, re.M)) for number in steps), len(steps)
