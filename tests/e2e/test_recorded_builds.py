"""What BuildKit was recorded to build, built by inlay: every layer of every step holds the same tree."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from ordinary import GID, UID
from recorded_builds import VECTORS, builds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ordinary import User

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: devices and foreign owners"),
]


def _builds() -> Iterator[tuple[str, str]]:
    """Each case, with each runtime if it runs anything."""
    with tarfile.open(VECTORS / "builds.tar.xz") as archive:
        for member in archive:
            case, _, name = member.name.partition("/")
            if name == "Dockerfile":
                stream = archive.extractfile(member)
                assert stream is not None
                runs = b"RUN" in stream.read() or "onbuild" in case
                yield from ((case, runtime) for runtime in (("crun", "runc", "builtin") if runs else ("",)))


@pytest.mark.parametrize(("case", "runtime"), list(_builds()))
def test_trees_are_the_recorded_ones(
    recordings: Path, bases: builds.Bases, tmp_path: Path, case: str, runtime: str
) -> None:
    if runtime in ("crun", "runc") and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    flags = ("--runtime", runtime) if runtime else ()
    assert builds.check(recordings / case, bases, tmp_path / "work", *flags) == []


def give(work: Path, uid: int, gid: int) -> None:
    """Give a folder, with what is in it, to a user; modes stay."""
    for path in [work, *work.rglob("*")]:
        status = path.lstat()
        os.chown(path, uid, gid, follow_symlinks=False)
        if not path.is_symlink():
            os.chmod(path, stat.S_IMODE(status.st_mode))  # the kernel takes setuid bits away


@pytest.mark.parametrize(
    ("case", "runtime"),
    [
        ("c04-chown-chmod", "crun"), ("c05-link", "runc"), ("c06-parents", "builtin"), ("c08-add-tar", "crun"),
        ("c12-mount-bind", "builtin"), ("c15-mount-special", "runc"), ("c20-links", "crun"),
        ("c48-chown-id", "builtin"),
    ],
)  # fmt: skip
def test_a_users_trees_are_too(
    recordings: Path, bases: builds.Bases, users: Callable[..., User], case: str, runtime: str
) -> None:
    """Some of them; all are but c43's, which makes device nodes."""
    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    user = users()

    def run(command: list[str], work: Path) -> subprocess.CompletedProcess[str]:
        give(work, UID, GID)
        return subprocess.run(
            user.command(*command), capture_output=True, text=True, check=False, env=user.environment, cwd="/"
        )

    found = builds.check(recordings / case, bases, user.home / "work", "--runtime", runtime, run=run)
    assert found == []


def test_a_difference_is_told_by_its_place() -> None:
    def layer(**facts: object) -> builds.Tree:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            member = tarfile.TarInfo("etc/x")
            member.mtime, member.mode = 100, 0o644
            for name, value in facts.items():
                setattr(member, name, value)
            archive.addfile(member)
        return builds.describe_layer(data.getvalue())

    times = builds.Times(newest_input_s=200, started_s=900, latest_s=float("inf"))
    assert list(builds.unlike([[layer()]], [[layer()]], times)) == []
    (mode,) = builds.unlike([[layer()]], [[layer(mode=0o600)]], times)
    assert mode.startswith("layer 0, etc/x: recorded")
    (time,) = builds.unlike([[layer()]], [[layer(mtime=101)]], times)
    assert time == "layer 0, etc/x: its time is recorded as 100, made 101"
    assert list(builds.unlike([[layer()]], [], times)) == ["only BuildKit has it"]
