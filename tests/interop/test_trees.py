"""Odd contexts, archives and steps leave the same trees with a real BuildKit and with inlay."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest
from odd_context import make_context, read_cases

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit import Daemon

CASES = read_cases()

pytestmark = [pytest.mark.interop, pytest.mark.root]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    folder.chmod(0o755)
    make_context(folder)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def describe(path: Path) -> dict[str, tuple[object, ...]]:
    """All members of a tar but for their times."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(path, errors="surrogateescape") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            found[member.name] = (
                *(member.type, oct(member.mode), member.uid, member.gid, member.linkname, member.size),
                *(member.devmajor, member.devminor),
                sorted(item for item in member.pax_headers.items() if ".xattr." in item[0]),
                hashlib.sha256(stream.read()).hexdigest() if stream else "",
            )
    return found


@pytest.mark.parametrize("name", CASES)
def test_trees_are_those_of_buildkit(
    daemon: Daemon, context: Path, store: Path, base: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "Dockerfile").write_text(CASES[name].replace("@BASE@", base))
    theirs = daemon.ctl(
        *("build", "--frontend", "dockerfile.v0", "--local", f"context={context}"),
        *("--local", f"dockerfile={tmp_path}", "--output", f"type=tar,dest={tmp_path}/theirs.tar"),
    )
    command = [sys.executable, "-m", "inlay", "build", "--root", str(store), "--progress", "plain"]
    flags = ["-f", f"{tmp_path}/Dockerfile", "-o", f"type=tar,dest={tmp_path}/ours.tar"]
    ours = subprocess.run([*command, *flags, str(context)], capture_output=True, text=True, check=False)
    assert (ours.returncode == 0) == (theirs.returncode == 0), theirs.stderr + ours.stderr
    if ours.returncode == 0:
        assert describe(tmp_path / "ours.tar") == describe(tmp_path / "theirs.tar")
