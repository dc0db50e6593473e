"""What crun and runc say of a program that cannot be executed, each version in its words, is told from a step's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from inlay.cancellation import Cancellation
from inlay.errors import ProcessFailed
from inlay.executor.executor import ProcessSpec
from inlay.executor.oci_runtime import OCIRuntimeExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Runs a program by a runtime that prints `parts`, one after the other, and ends with `code`."""
    made: list[OCIRuntimeExecutor] = []

    def run(name: str, program: str, code: int, *parts: str) -> int:
        for number, part in enumerate(parts):
            (tmp_path / f"part-{number}").write_text(part)
        cat = [f"cat {tmp_path}/part-{number} >&2; sleep 0.1" for number in range(len(parts))]
        runtime = tmp_path / name
        runtime.write_text("\n".join(["#!/bin/sh", *cat, f"exit {code}\n"]))
        runtime.chmod(0o755)
        (tmp_path / "root/bin").mkdir(parents=True)
        (tmp_path / "root/bin/script").touch()
        executor = OCIRuntimeExecutor(str(runtime), str(tmp_path / "bundle"))
        made.append(executor)
        spec = ProcessSpec((program,), str(tmp_path / "root"), ("PATH=/bin",))
        return executor.run(spec, lambda *_: None, Cancellation())

    yield run
    for executor in made:
        executor.close()


JSON = '{\n  "msg": "exec container process `\\/bin\\/script`: Exec format error",\n  "level": "error"'
MISSING = (
    '{"msg":"exec container process (missing dynamic library?) `/bin/script`: No such file or directory"}\n'
)
RUNC = "runc run failed: unable to start container process: error during container init: "


@pytest.mark.parametrize(
    ("name", "program", "code", "parts", "becomes"),
    [
        ("crun", "/bin/script", 1, [JSON + "\n}\n"], 126),
        ("crun", "/bin/script", 1, [JSON, "\n}\n"], 126),
        ("crun", "script", 1, [MISSING[:110], MISSING[110:]], 127),
        ("crun", "/x", 1, ["the path `/x` exists but it is not executable: Operation not permitted\n"], 126),
        ("crun", "x", 1, ["executable file `x` not found in $PATH: No such file or directory\n"], 127),
        ("runc", "/bin/script", 1, ["exec /bin/script: no such file or directory\n"], 127),
        ("runc", "/bin/script", 255, ["exec /bin/script: no such file or directory\n"], 127),
        ("runc", "script", 255, ["exec /bin/script: exec format error\n"], 126),
        ("runc", "x", 1, [f'{RUNC}exec: "x": executable file not found in $PATH\n'], 127),
        ("runc", "./x", 1, [f'{RUNC}exec: "./x": permission denied\n'], 126),
    ],
)
def test_a_program_that_cannot_be_executed_is_told_in_one_way(
    run: Callable[..., int], name: str, program: str, code: int, parts: list[str], becomes: int
) -> None:
    with pytest.raises(ProcessFailed, match=f'^"{program}"') as error:
        run(name, program, code, *parts)
    assert error.value.exit_code == becomes


@pytest.mark.parametrize("name", ["crun", "runc"])
@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (1, ['exec: "git": executable file not found in $PATH\n']),
        (1, ["building\n", 'exec: "script": executable file not found in $PATH\n']),
        (1, ["." * 4100, 'exec: "script": executable file not found in $PATH\n']),
        (255, ["exec /bin/other: no such file or directory\n"]),
        (3, ["exec /bin/script: exec format error\n"]),
    ],
)
def test_what_a_step_says_of_other_programs_is_its_own(
    run: Callable[..., int], name: str, code: int, parts: list[str]
) -> None:
    assert run(name, "/bin/script", code, *parts) == code
