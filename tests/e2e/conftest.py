"""The whole program, as a user runs it: a store of its own for each build, a base image, a registry."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry


class Outcome(NamedTuple):
    """What a run of `inlay` left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def cached(self) -> int:
        return self.err.count(" CACHED\n")


Inlay = "Callable[..., Outcome]"


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


@pytest.fixture
def inlay() -> Callable[..., Outcome]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return run_inlay


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of busybox, as a tar."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed (Debian package busybox-static)")
    path = tmp_path_factory.mktemp("base") / "rootfs.tar"
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "etc", "tmp", "root"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(member)
        tar.add(busybox, "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                member = tarfile.TarInfo(f"bin/{applet}")
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(member)
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture(scope="session")
def base(rootfs: Path, docker_registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of a base image in the registry, built by inlay itself."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = rootfs.parent
    (folder / "Dockerfile").write_text(
        'FROM scratch\nADD rootfs.tar /\nENV PATH=/usr/sbin:/usr/bin:/sbin:/bin\nCMD ["/bin/sh"]\n'
    )
    reference = f"{docker_registry.host}/base:1"
    root = tmp_path_factory.mktemp("base-store")
    done = run_inlay(
        "build", "--root", str(root), "--progress", "plain", "-t", reference, "--push", str(folder)
    )
    assert done.code == 0, done.err
    return reference
