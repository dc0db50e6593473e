"""Steps that BuildKit's keys take for one, though they do different things: each gets its own result here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.root]

MOUNTS = (
    "RUN --mount=source=a,target=/x --mount=source=b,target=/y cat /x /y > /made\nRUN cp /made /out\n",
    "RUN --mount=source=b,target=/x --mount=source=a,target=/y cat /x /y > /made\nRUN cp /made /out\n",
)
_STAGE = "RUN mkdir /one /two && echo 1 > /one/f && echo 2 > /two/f\nFROM base\n"
STAGES = (
    f"{_STAGE}RUN --mount=from=base,source=/one,target=/x cat /x/f > /out\n",
    f"{_STAGE}RUN --mount=from=base,source=/two,target=/x cat /x/f > /out\n",
)
COPIES = (
    "COPY sub sub/out /d/\nRUN cp /d/out /out\n",
    "COPY sub sub/deep/out /d/\nRUN cp /d/out /out\n",
)


@pytest.mark.parametrize(
    ("dockerfiles", "results"),
    [(MOUNTS, ("a\nb\n", "b\na\n")), (STAGES, ("1\n", "2\n")), (COPIES, ("shallow\n", "deep\n"))],
    ids=["mounts", "stages", "copies"],
)
def test_what_goes_where_counts(
    inlay: Callable[..., Any],
    base: str,
    tmp_path: Path,
    dockerfiles: tuple[str, str],
    results: tuple[str, str],
) -> None:
    context = tmp_path / "context"
    (context / "sub/deep").mkdir(parents=True)
    for name, text in (("a", "a\n"), ("b", "b\n"), ("sub/out", "shallow\n"), ("sub/deep/out", "deep\n")):
        (context / name).write_text(text)
    for number in (0, 1, 0, 1):
        (context / "Dockerfile").write_text(f"FROM {base} AS base\n{dockerfiles[number]}")
        (context / ".dockerignore").write_text("Dockerfile\n")
        command = ("build", "--root", str(tmp_path / "s"), "--progress", "plain", "-o", str(tmp_path / "out"))
        done = inlay(*command, str(context))
        assert done.code == 0, done.err
        assert (tmp_path / "out/out").read_text() == results[number]
    assert done.cached == dockerfiles[0].count("RUN") + dockerfiles[0].count("COPY")
