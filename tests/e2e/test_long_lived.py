"""Programs that build again and again: nothing of a build stays open in them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

import inlay
from inlay.errors import BuildCancelled, InlayError
from inlay.progress.events import Started

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inlay.progress.events import Event

pytestmark = [pytest.mark.e2e, pytest.mark.root]


class Program:
    """A long-lived program, and the contexts that it builds."""

    def __init__(self, folder: Path, base: str) -> None:
        self._folder = folder
        self._base = base
        self._count = 0
        self.archive = folder / "cache.tar"

    def build(self, dockerfile: str, *flags: str, on_event: Callable[[Event], None] | None = None) -> None:
        """Build what no build before has built; `@BASE@` is the base image."""
        self._count += 1
        context = self._folder / f"context-{self._count}"
        context.mkdir()
        (context / "file").write_text(str(self._count))
        (context / "Dockerfile").write_text(dockerfile.replace("@BASE@", self._base))
        options = {"tags": ["made"], "outputs": [flag for flag in flags if flag.startswith("type=oci")]}
        cancellation = inlay.Cancellation()

        def tell(event: Event) -> None:
            if isinstance(event, Started) and "sleep" in event.name:
                threading.Timer(0.2, cancellation.cancel).start()

        inlay.build(
            context,
            root=self._folder / "store",
            cache_to=["type=inline"],
            cache_from=[flag for flag in flags if flag.startswith("type=local")],
            build_contexts={"other": f"oci-layout://{self.archive}"} if "other" in dockerfile else {},
            on_event=tell,
            cancellation=cancellation,
            **options,  # type: ignore[arg-type]
        )


def open_files() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return sorted(found)


@pytest.fixture
def program(base: str, tmp_path: Path) -> Program:
    made = Program(tmp_path, base)
    made.build("FROM @BASE@\nCOPY file /\nRUN cat /file\n")
    made.build("FROM @BASE@\nCOPY file /\nRUN cat /file\n", f"type=oci,dest={made.archive}")
    return made


@pytest.mark.parametrize(
    ("dockerfile", "error"),
    [
        ("FROM @BASE@\nCOPY file /\nRUN cat /file\n", None),
        ("FROM @BASE@\nRUN --mount=target=/context cat /context/file\n", None),
        ("FROM other\nCOPY file /\nRUN cat /file\n", None),
        ("FROM @BASE@\nCOPY file /\nRUN cat /missing\n", inlay.errors.ProcessFailed),
        ("FROM @BASE@\nCOPY file /\nCOPY missing /\n", inlay.errors.SolveError),
        ("FROM @BASE@\nCOPY file /\nRUN --mount=target=/context sleep 99\n", BuildCancelled),
        ("FROM @BASE@\nCOPY file\n", inlay.errors.DockerfileError),
    ],
)
def test_a_build_leaves_nothing_open(
    program: Program, dockerfile: str, error: type[InlayError] | None
) -> None:
    def build() -> None:
        if error is None:
            program.build(dockerfile, f"type=local,src={program.archive}")
        else:
            with pytest.raises(error):
                program.build(dockerfile, f"type=local,src={program.archive}")

    build()  # what is made once for a program is there now
    before = open_files()
    for _ in range(3):
        build()
    assert open_files() == before
