"""The built-in executor: the kernel's namespaces, no other program needed."""

from __future__ import annotations

import os

from inlay.executor import defaults, seccomp
from inlay.executor.launcher import Launcher
from inlay.executor.prepared import capabilities, with_prepared
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.cancellation import Cancellation
    from inlay.executor.executor import ProcessSpec
    from inlay.executor.launcher import Outcome
    from inlay.executor.prepared import PreparedSpec


class NamespacesExecutor:
    """Runs steps in namespaces that it makes itself. See `Executor`."""

    __slots__ = ("_launcher",)

    name = "builtin"

    def __init__(self, cgroup_parent: str = "") -> None:
        """`cgroup_parent` is the folder of the cgroup below which steps run; "" means this process's."""
        self._launcher = Launcher(cgroup_parent)

    def prepare(self) -> None:
        self._launcher.start()

    def run(self, spec: ProcessSpec, on_output: Callable[[int, bytes], None], cancel: Cancellation) -> int:
        self.prepare()

        def run(prepared: PreparedSpec) -> Outcome:
            return self._launcher.run(
                "sandbox",
                _arguments(spec, prepared),
                prepared.fds,
                on_output,
                cancel,
                trusted=spec.security == "insecure",
            )

        outcome = with_prepared(spec, run)
        if outcome.exec_errno:
            from inlay.executor.executable import program_missing

            raise program_missing(spec, outcome.exec_errno)
        return outcome.exit_code

    def close(self) -> None:
        self._launcher.close()


def _arguments(spec: ProcessSpec, prepared: PreparedSpec) -> dict[str, object]:
    """The keyword arguments of `inlay.executor.sandbox.run`."""
    insecure = spec.security == "insecure"
    return {
        "hostname": prepared.hostname,
        "own_network": spec.network == "none",
        "pids_limit": spec.pids_limit,
        "view": {
            "rootfs": prepared.rootfs,
            "mounts": prepared.mounts,
            "insecure": insecure,
            "readonly_rootfs": spec.readonly_rootfs,
            "shm_size": spec.shm_size,
        },
        "program": {
            "args": [os.fsencode(argument) for argument in spec.args],
            "env": dict(os.fsencode(entry).split(b"=", 1) for entry in prepared.env),
            "cwd": os.fsencode("/" + spec.cwd.lstrip("/")),
            "uid": spec.uid,
            "gid": spec.gid,
            "groups": prepared.groups,
            "capabilities": defaults.capability_mask(capabilities(spec)),
            "ambient": insecure,
            "seccomp_filter": b"" if insecure else seccomp.filter_program(os.uname().machine),
            "rlimits": [tuple(limit) for limit in spec.ulimits],
        },
    }
