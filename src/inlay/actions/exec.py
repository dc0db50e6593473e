"""RUN: one process on a tree (BuildKit: solver/llbsolver/ops/exec.go)."""

from __future__ import annotations

import time

from inlay.actions.foreign import check_runnable
from inlay.actions.mounts import StepMounts
from inlay.actions.steplog import StepLog, log_limit
from inlay.actions.users import find_user
from inlay.cancellation import Cancellation
from inlay.errors import ProcessFailed, SolveError
from inlay.executor.executor import ProcessSpec, Ulimit
from inlay.llb.ops import NETWORK_HOST, NETWORK_NONE, SECURITY_INSECURE, ExecOp, Meta
from inlay.platform import DEFAULT_PATH
from inlay.progress.events import Log
from inlay.tasks import in_thread
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.actions.worker import Result, Worker
    from inlay.executor.executor import Network
    from inlay.llb.graph import Vertex
    from inlay.refs.ref import Ref

_NETWORKS: dict[int, Network] = {NETWORK_HOST: "host", NETWORK_NONE: "none"}  # else the sandbox


async def run_exec(worker: Worker, vertex: Vertex, op: ExecOp, inputs: Sequence[Result]) -> list[Ref]:
    """Run the process of `vertex`; return the tree that it left. Raises `ProcessFailed`."""
    if op.meta is None:
        raise SolveError("an exec op without a process", step=vertex.name, location=vertex.location)
    if any(not device.optional for device in op.devices):
        raise SolveError("CDI devices (RUN --device) cannot be given to steps; mark them as not required")
    async with StepMounts(worker, op, inputs) as mounts:
        spec = await in_thread(_spec, worker, vertex, op, op.meta, mounts, limiter=worker.disk)
        digest = str(vertex.digest)
        log = StepLog(lambda stream, data: worker.emit(Log(digest, stream, data, time.time())), log_limit())
        code, timed_out = await _run(worker, spec, log)
        if code not in (op.meta.valid_exit_codes or (0,)):
            from inlay.actions.advice import ending

            log.show_held()
            raise ProcessFailed(
                f'process "{" ".join(op.meta.args)}" did not complete successfully: '
                + (
                    f"it took longer than {worker.step_timeout_s:g} s (--step-timeout) and was ended"
                    if timed_out
                    else ending(code, bytes(log.last), root=mounts.path, pids_limit=spec.pids_limit)
                ),
                exit_code=code,
                step=vertex.name,
                location=vertex.location,
            )
        return [await mounts.commit(vertex.name)]


async def _run(worker: Worker, spec: ProcessSpec, log: StepLog) -> tuple[int, bool]:
    """Run the process; return its exit code, and whether it was ended because it took too long."""
    cancellation, too_long = Cancellation(), Cancellation()
    too_long.listen(cancellation.cancel)
    executor = await worker.executor()

    def run() -> int:
        return executor.run(spec, log.write, cancellation)

    worker.process_begins()
    try:
        code = await in_thread(
            _within, worker.step_timeout_s, run, too_long, limiter=worker.processes, abort=cancellation.cancel
        )
    finally:
        worker.process_ended()
    return code, too_long.cancelled


def _within(seconds: float, run: Callable[[], int], too_long: Cancellation) -> int:
    """What `run` returns; it is cancelled by `too_long` after `seconds`, unless they are 0."""
    if not seconds:
        return run()
    from threading import TIMEOUT_MAX, Timer

    timer = Timer(min(seconds, TIMEOUT_MAX), too_long.cancel)
    timer.daemon = True
    timer.start()
    try:
        return run()
    finally:
        timer.cancel()


def _spec(worker: Worker, vertex: Vertex, op: ExecOp, meta: Meta, mounts: StepMounts) -> ProcessSpec:
    with mounts.root_tree() as tree:
        if vertex.platform is not None and meta.args:
            check_runnable(tree, meta.args[0], vertex.platform)
        user = find_user(tree, meta.user)
    env = list(meta.env)
    if meta.proxy_env is not None:
        for name, value in zip(meta.proxy_env._fields, meta.proxy_env, strict=True):
            if value:
                env += [f"{name.upper()}={value}", f"{name}={value}"]
    if not any(entry.startswith("PATH=") for entry in env):
        env.append(f"PATH={DEFAULT_PATH}")
    env += worker.secrets.environment(op.secret_env)
    return ProcessSpec(
        args=meta.args,
        rootfs=mounts.root,
        env=tuple(env),
        cwd=meta.cwd or "/",
        uid=user.uid,
        gid=user.gid,
        additional_gids=user.groups,
        mounts=tuple(mounts.mounts),
        network=_NETWORKS.get(op.network, "sandbox"),
        security="insecure" if op.security == SECURITY_INSECURE else "sandbox",
        hostname=meta.hostname,
        extra_hosts=tuple((entry.host, entry.ip) for entry in meta.extra_hosts),
        ulimits=tuple(Ulimit(*limit) for limit in meta.ulimits),
        readonly_rootfs=mounts.readonly_root,
    )
