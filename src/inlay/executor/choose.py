"""Which executor to use: the one asked for, or the first that works here."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from inlay.errors import UsageError
from inlay.executor.cgroup import make_parent

if TYPE_CHECKING:
    from inlay.executor.executor import Executor

RUNTIMES = ("crun", "runc", "builtin")


def choose_executor(name: str, folder: str, cgroup_parent: str = "") -> Executor:
    """The executor `name`, or by default crun, runc or the built-in one, whichever is there first.

    `cgroup_parent` is a path in the cgroup tree, for steps to run below.
    """
    if name and name not in RUNTIMES:
        raise UsageError(f"--runtime {name}: must be one of {', '.join(RUNTIMES)}")
    group_parent = make_parent(cgroup_parent) if cgroup_parent else ""
    for runtime in (name,) if name else RUNTIMES:
        if runtime == "builtin":
            from inlay.executor.namespaces import NamespacesExecutor

            return NamespacesExecutor(group_parent)
        if program := shutil.which(runtime):
            from inlay.executor.oci_runtime import OCIRuntimeExecutor

            return OCIRuntimeExecutor(program, folder, group_parent)
    raise UsageError(f"--runtime {name}: no such program on PATH (Debian package {name})")
