"""RUN --mount, for real: what a step sees, and that none of it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SECRET = "very-hush-hush-4711"
DOCKERFILE = """FROM @BASE@
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" = "@SECRET@"
RUN --mount=type=secret,id=token,env=TOKEN test "$TOKEN" = "@SECRET@"
RUN --mount=type=cache,target=/cache/deep echo x >> /cache/deep/count && wc -l < /cache/deep/count > /counted
RUN --mount=type=tmpfs,target=/scratch/pad touch /scratch/pad/file
RUN --mount=type=bind,target=/in,rw cat /in/Dockerfile > /dev/null && touch /in/dropped
RUN --network=none test "$(ls /sys/class/net)" = lo
RUN test ! -e /run/secrets && test ! -e /cache && test ! -e /scratch && test ! -e /in
"""


def holds(path: Path, data: bytes) -> bool:
    return path.is_file() and not path.is_symlink() and data in path.read_bytes()


@pytest.mark.parametrize("runtime", ["crun", "runc", "builtin"])
def test_mounts_are_seen_and_leave_nothing(
    inlay: Callable[..., Any], base: str, tmp_path: Path, runtime: str
) -> None:
    import shutil

    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    context, store = tmp_path / "context", tmp_path / "s"
    context.mkdir()
    hidden = "very-hush-hush-$((4710 + 1))"  # the secret itself must not be in the Dockerfile
    (context / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base).replace("@SECRET@", hidden))
    build = ("build", "--progress", "plain", "--root", str(store), "--runtime", runtime, "-t", "x")
    secret = ("--secret", "id=token,env=TOKEN_VALUE")
    done = inlay(*build, *secret, "--cache-to", "type=inline", str(context), env={"TOKEN_VALUE": SECRET})
    assert done.code == 0, done.err
    assert SECRET not in done.err
    assert not (context / "dropped").exists()
    found = [path for path in store.rglob("*") if holds(path, SECRET.encode())]
    assert found == []


def test_a_missing_secret_names_itself_and_what_to_do(
    inlay: Callable[..., Any], base: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base}\nRUN --mount=type=secret,id=token,required cat /run/secrets/token\n"
    )
    done = inlay("build", "--root", str(tmp_path / "s"), str(tmp_path))
    assert done.code == 1
    assert "Dockerfile:2" in done.err
    assert "--secret id=token" in done.err
