"""The whole program, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple


class Outcome(NamedTuple):
    """What a run of `inlay` left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def cached(self) -> int:
        return self.err.count(" CACHED\n")


def run_inlay(*arguments: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "inlay", *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, **(env or {})},
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())
