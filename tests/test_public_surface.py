"""The names that a program may rely on."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import inlay

if TYPE_CHECKING:
    from pathlib import Path


def test_the_public_names() -> None:
    assert inlay.__all__ == [
        "BuildCancelled",
        "BuildResult",
        "Cancellation",
        "Change",
        "Explanation",
        "InlayError",
        "NotCached",
        "StepOutcome",
        "__version__",
        "build",
    ]
    assert [name for name in inlay.__all__ if getattr(inlay, name).__doc__ is None] == []


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = inlay.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("heavy", ["asyncio", "http.client", "dataclasses", "ssl", "subprocess", "tarfile"])
def test_the_command_line_starts_without(heavy: str) -> None:
    code = f"import sys, inlay.__main__, inlay.cli, inlay.engine.build; print({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_module_draws_a_warning_when_it_is_compiled_or_imported() -> None:
    code = (
        "import importlib, inlay, pathlib, pkgutil\n"
        "for module in pkgutil.walk_packages(inlay.__path__, 'inlay.'):\n"
        "    path = module.module_finder.find_spec(module.name).origin\n"
        "    compile(pathlib.Path(path).read_bytes(), path, 'exec')\n"
        "    importlib.import_module(module.name)\n"
        "    print(module.name)\n"
    )
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "inlay.solver.solver" in done.stdout.splitlines()


@pytest.mark.root
def test_build_returns_digests_and_what_became_of_each_step(tmp_path: Path) -> None:
    import os

    if os.geteuid() != 0:
        pytest.skip("needs root")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY a /a\nLABEL x=y\n")
    (tmp_path / "a").write_text("content")
    store = tmp_path.parent / f"{tmp_path.name}-store"
    events: list[object] = []
    first = inlay.build(tmp_path, tags=["example"], root=store, on_event=events.append)
    again = inlay.build(tmp_path, tags=["example"], root=store, cache_to=["type=inline"])
    assert first.digest.startswith("sha256:")
    assert [(step.name, step.outcome) for step in first.steps] == [("[1/1] COPY a /a", "ran")]
    assert [step.outcome for step in again.steps] == ["cached"]
    assert first.digest != again.digest  # the second one carries its cache
    assert events
    with pytest.raises(inlay.InlayError, match="COPY b"):
        (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY b /\n")
        inlay.build(tmp_path, root=store)


@pytest.mark.parametrize("name", ["tags", "cache_from", "outputs", "platforms"])
def test_a_text_in_the_place_of_a_list_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(inlay.InlayError, match=rf"{name}='app': expected a list of texts"):
        inlay.build(tmp_path, root=tmp_path / "store", **{name: "app"})


@pytest.mark.root
def test_what_on_event_raises_stops_the_build(tmp_path: Path) -> None:
    import os

    if os.geteuid() != 0:
        pytest.skip("needs root")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    store = tmp_path.parent / f"{tmp_path.name}-store"

    class Enough(Exception):
        pass

    def stop(event: object) -> None:
        if "COPY" in str(event):
            raise Enough

    with pytest.raises(Enough):
        inlay.build(tmp_path, root=store, tags=["example"], on_event=stop)
    assert not (store / "index.json").exists()
    assert inlay.build(tmp_path, root=store).steps_run == 1


def test_an_event_can_be_told_by_its_type() -> None:
    from inlay.progress.events import Event, Started

    assert isinstance(Started("id", "a step", 0.0), Event)


def test_only_images_can_be_pushed(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(inlay.InlayError, match=r"--push does not go with --output type=local,dest=x"):
        inlay.build(tmp_path, outputs=["type=local,dest=x"], push=True, root=tmp_path / "store")


def test_every_part_of_a_request_can_be_asked_for_from_python() -> None:
    import inspect

    from inlay.request import BuildRequest

    parameters = set(inspect.signature(inlay.build).parameters)
    assert set(BuildRequest._fields) <= parameters
    assert parameters - set(BuildRequest._fields) == {"push", "on_event", "cancellation"}
