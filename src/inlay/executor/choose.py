"""Which executor to use: the one asked for, or the first that works here."""

from __future__ import annotations

from inlay.errors import SolveError, UsageError
from inlay.executor.cgroup import make_parent
from inlay.system.privileges import step_refusal
from inlay.system.programs import find_program
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.executor.executor import Executor

RUNTIMES = ("crun", "runc", "builtin")
"""In the order of preference; docs/security.md says why."""


def choose_executor(name: str, folder: str, cgroup_parent: str = "") -> Executor:
    """The executor `name`, or by default the first one of crun, runc and the built-in one that works.

    `folder` is where OCI runtimes have their bundles, and where it is noted which ones work;
    `cgroup_parent` is a path in the cgroup tree, for steps to run below.
    Raises `UsageError` for one that does not exist, `SolveError` where none can work.
    """
    if name and name not in RUNTIMES:
        raise UsageError(f"--runtime {name}: must be one of {', '.join(RUNTIMES)}")
    reason = step_refusal()
    if reason is not None:
        raise SolveError(f"RUN steps cannot be run: {reason}")
    group_parent = make_parent(cgroup_parent) if cgroup_parent else ""
    executor = make_executor(name, folder, group_parent) if name else _first_working(folder, group_parent)
    if executor is None:
        raise UsageError(f"--runtime {name}: no such program on PATH (Debian package {name})")
    executor.prepare()
    return executor


def _first_working(folder: str, group_parent: str) -> Executor:
    for name in RUNTIMES[:-1]:
        executor = make_executor(name, folder, group_parent)
        if executor is None:
            continue
        executor.prepare()  # which goes on while this process imports what a trial takes
        from inlay.executor.probe import works

        if works(executor, find_program(name), folder):
            return executor
        executor.close()
    from inlay.executor.namespaces import NamespacesExecutor

    return NamespacesExecutor(group_parent)


def make_executor(name: str, folder: str, group_parent: str = "") -> Executor | None:
    """The executor `name`; None where its program is not installed.

    `group_parent` is the folder of the cgroup for steps to run below; empty means this process's.
    """
    if name == "builtin":
        from inlay.executor.namespaces import NamespacesExecutor

        return NamespacesExecutor(group_parent)
    program = find_program(name)
    if not program:
        return None
    from inlay.executor.oci_runtime import OCIRuntimeExecutor

    return OCIRuntimeExecutor(program, folder, group_parent)
