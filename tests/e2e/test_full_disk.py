"""A disk that is full, wherever that shows: one sentence, nothing half-written, and all is well once there is room."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SCRIPT = """
mount -t tmpfs -o "size=$1" none "$2" || exit 77
disk=$2
shift 2
"$@" > "$disk.out" 2> "$disk.err"; echo $? > "$disk.code"
cp -r "$disk" "$disk.left"
mount -o remount,size=400m "$disk"
"$@" > "$disk.out2" 2> "$disk.err2"; echo $? > "$disk.code2"
"""
BLOB = 6 << 20


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "blob").write_bytes(os.urandom(BLOB))
    (folder / "Dockerfile").write_text(f"FROM {base}\nCOPY blob /blob\nRUN cat /blob > /copy\n")
    return folder


@pytest.mark.parametrize("out", ["store", "archive"])
@pytest.mark.parametrize(
    "size", ["40k", "100k", "140k", "200k", "1m", "1400k", "1600k", "1800k", "2m", "3m", "10m", "15m", "22m"]
)
def test_it_is_told_and_nothing_half_written_is_left(
    inlay: Callable[..., object], context: Path, tmp_path: Path, size: str, out: str
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare (Debian package util-linux)")
    disk = tmp_path / "disk"
    disk.mkdir()
    output = ["-t", "x"] if out == "store" else ["-o", f"type=oci,dest={disk}/x.tar"]
    build = [sys.executable, "-m", "inlay", "build", "-q", "--root", f"{disk}/root", *output, str(context)]
    script = ["unshare", "-m", "--propagation", "private", "sh", "-c", SCRIPT, "sh", size, str(disk), *build]
    done = subprocess.run(script, check=False, timeout=120)
    if done.returncode == 77:
        pytest.skip("no tmpfs can be mounted")

    def left(name: str) -> str:
        return (tmp_path / f"disk.{name}").read_text()

    assert left("code").strip() in ("1", "2"), left("err")
    assert "Traceback" not in left("err")
    last = left("err").splitlines()[-1]
    assert last.startswith("inlay: ")
    assert "space" in left("err") or "full" in left("err")
    state = tmp_path / "disk.left/root"
    assert not (state / "index.json").exists()
    assert not (tmp_path / "disk.left/x.tar").exists()
    for blob in (state / "blobs/sha256").glob("*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert left("code2").strip() == "0", left("err2")
