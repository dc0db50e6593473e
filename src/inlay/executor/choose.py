"""Which executor to use: the one asked for, or the first that works here."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from inlay.errors import UsageError

if TYPE_CHECKING:
    from inlay.executor.executor import Executor

RUNTIMES = ("crun", "runc", "builtin")


def choose_executor(name: str, folder: str) -> Executor:
    """The executor `name`, or by default crun, runc or the built-in one, whichever is there first."""
    if name and name not in RUNTIMES:
        raise UsageError(f"--runtime {name}: must be one of {', '.join(RUNTIMES)}")
    for runtime in (name,) if name else RUNTIMES:
        if runtime == "builtin":
            from inlay.executor.namespaces import NamespacesExecutor

            return NamespacesExecutor()
        if program := shutil.which(runtime):
            from inlay.executor.oci_runtime import OCIRuntimeExecutor

            return OCIRuntimeExecutor(program, folder)
    raise UsageError(f"--runtime {name}: no such program on PATH (Debian package {name})")
