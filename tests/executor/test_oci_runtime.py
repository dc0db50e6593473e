"""What crun and runc say of a program that cannot be executed, each version in its words, is told from a step's own."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from inlay.cancellation import Cancellation
from inlay.errors import ProcessFailed
from inlay.executor.binfmt import program as elf_program
from inlay.executor.executor import ProcessSpec
from inlay.executor.oci_runtime import OCIRuntimeExecutor
from inlay.platform import host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Runs a program by a runtime that prints `parts`, one after the other, and ends with `code`.

    /bin/script and /x, what there is, cannot be executed for the reason `errno`.
    """
    made: list[OCIRuntimeExecutor] = []

    def run(name: str, program: str, code: int, *parts: str, reason: int = 0) -> int:
        for number, part in enumerate(parts):
            (tmp_path / f"part-{number}").write_text(part)
        cat = [f"cat {tmp_path}/part-{number} >&2; sleep 0.1" for number in range(len(parts))]
        runtime = tmp_path / name
        runtime.write_text("\n".join(["#!/bin/sh", *cat, f"exit {code}\n"]))
        runtime.chmod(0o755)
        (tmp_path / "root/bin").mkdir(parents=True)
        content, mode = FILES[reason]
        for path in (tmp_path / "root/bin/script", tmp_path / "root/x"):
            path.write_bytes(content)
            path.chmod(mode)
        executor = OCIRuntimeExecutor(str(runtime), str(tmp_path / "bundle"))
        made.append(executor)
        spec = ProcessSpec((program,), str(tmp_path / "root"), ("PATH=/bin",))
        return executor.run(spec, lambda *_: None, Cancellation())

    yield run
    for executor in made:
        executor.close()


FILES = {
    0: (elf_program(host().architecture), 0o755),
    errno.ENOEXEC: (b"true\n", 0o755),
    errno.ENOENT: (b"#!/no/such/shell\n", 0o755),
    errno.EACCES: (b"#!/bin/script\n", 0o644),
}
JSON = '{\n  "msg": "exec container process `\\/bin\\/script`: Exec format error",\n  "level": "error"'
MISSING = (
    '{"msg":"exec container process (missing dynamic library?) `/bin/script`: No such file or directory"}\n'
)
RUNC = "runc run failed: unable to start container process: error during container init: "


@pytest.mark.parametrize(
    ("name", "program", "code", "parts", "reason"),
    [
        ("crun", "/bin/script", 1, [JSON + "\n}\n"], errno.ENOEXEC),
        ("crun", "/bin/script", 1, [JSON, "\n}\n"], errno.ENOEXEC),
        ("crun", "script", 1, [MISSING[:110], MISSING[110:]], errno.ENOENT),
        (
            "crun",
            "/x",
            1,
            ["the path `/x` exists but it is not executable: Operation not permitted\n"],
            errno.EACCES,
        ),
        (
            "crun",
            "x",
            1,
            ["executable file `x` not found in $PATH: No such file or directory\n"],
            errno.ENOENT,
        ),
        ("runc", "/bin/script", 1, ["exec /bin/script: no such file or directory\n"], errno.ENOENT),
        ("runc", "/bin/script", 255, ["exec /bin/script: no such file or directory\n"], errno.ENOENT),
        ("runc", "script", 255, ["exec /bin/script: exec format error\n"], errno.ENOEXEC),
        ("runc", "x", 1, [f'{RUNC}exec: "x": executable file not found in $PATH\n'], errno.ENOENT),
        ("runc", "./x", 1, [f'{RUNC}exec: "./x": permission denied\n'], errno.EACCES),
    ],
)
def test_a_program_that_cannot_be_executed_is_told_in_one_way(
    run: Callable[..., int], name: str, program: str, code: int, parts: list[str], reason: int
) -> None:
    with pytest.raises(ProcessFailed, match=f'^"{program}"') as error:
        run(name, program, code, *parts, reason=reason)
    assert error.value.exit_code == (127 if reason == errno.ENOENT else 126)


@pytest.mark.parametrize("name", ["crun", "runc"])
@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (1, ['exec: "git": executable file not found in $PATH\n']),
        (1, ["building\n", 'exec: "script": executable file not found in $PATH\n']),
        (1, ["." * 4100, 'exec: "script": executable file not found in $PATH\n']),
        (255, ["exec /bin/other: no such file or directory\n"]),
        (3, ["exec /bin/script: exec format error\n"]),
        (1, ["exec /bin/script: exec format error\n"]),
        (1, [MISSING]),
    ],
)
def test_what_a_step_says_of_programs_that_can_be_executed_is_its_own(
    run: Callable[..., int], name: str, code: int, parts: list[str]
) -> None:
    assert run(name, "/bin/script", code, *parts) == code
