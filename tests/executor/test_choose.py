"""The default runtime is the first that works, found out once."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from inlay.errors import SolveError, UsageError
from inlay.executor import choose, probe
from inlay.executor.choose import choose_executor, make_executor
from processes import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inlay.executor.executor import Executor

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc"),
]


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[[], str]:
    """Chooses, and tells the name."""

    def choice() -> str:
        executor = choose_executor("", str(tmp_path / "runtime"))
        executor.close()
        return executor.name

    return choice


def put_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_runtime_that_is_installed_but_does_not_work_is_passed_over(
    chosen: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(tmp_path / "bin", "crun", "echo unknown version specified >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}:/usr/sbin")
    assert chosen() == "runc"
    put_program(tmp_path / "bin", "runc", "exit 3")
    assert chosen() == "builtin"


def test_what_worked_is_not_tried_again_until_the_program_changes(
    chosen: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(tmp_path / "bin", "crun", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    tries: list[str] = []
    really = probe.try_executor

    def counted(executor: Executor) -> str | None:
        tries.append(executor.name)
        return really(executor)

    monkeypatch.setattr(probe, "try_executor", counted)
    assert [chosen(), chosen()] == ["crun", "crun"]
    assert tries == ["crun"]
    put_program(tmp_path / "bin", "crun", "exit 1 # broken by an update")
    assert chosen() == "runc"
    assert tries == ["crun", "crun", "runc"]


@pytest.mark.parametrize("content", ["", "[]", '{"crun": 1', "\udcff"])
def test_a_broken_note_is_as_good_as_none(chosen: Callable[[], str], tmp_path: Path, content: str) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime/works").write_text(content, errors="surrogateescape")
    name = chosen()
    assert name in json.loads((tmp_path / "runtime/works").read_text())


def test_each_runtime_runs_the_probe(tmp_path: Path) -> None:
    for name in choose.RUNTIMES:
        executor = make_executor(name, str(tmp_path / "runtime"))
        assert executor is not None
        try:
            assert probe.try_executor(executor) is None
        finally:
            executor.close()


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--runtime podman: must be one of crun, runc, builtin"):
        choose_executor("podman", str(tmp_path))


def test_without_privileges_it_is_said_what_steps_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "step_refusal", lambda: "it takes root")
    with pytest.raises(SolveError, match="RUN steps cannot be run: it takes root"):
        choose_executor("builtin", str(tmp_path))


@pytest.mark.parametrize("name", ["", *choose.RUNTIMES])
def test_the_process_that_starts_steps_is_begun_with_the_choice(name: str, tmp_path: Path) -> None:
    before = zygotes()
    executor = choose_executor(name, str(tmp_path / "runtime"))
    try:
        wait_until(lambda: zygotes() - before, within_s=5)
    finally:
        executor.close()
    assert zygotes() == before


def zygotes() -> set[int]:
    """The processes that start steps for this one."""
    return set(filter(is_child, processes_with("zygote.main()")))


def is_child(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1]) == os.getpid()
    except OSError:
        return False
