"""crun and runc as executors: an OCI runtime spec in a bundle that exists in memory only."""

from __future__ import annotations

import errno
import os
from binascii import b2a_base64

from inlay import json
from inlay.errors import SolveError
from inlay.executor import defaults, seccomp
from inlay.executor.launcher import Launcher
from inlay.executor.prepared import capabilities, with_prepared
from inlay.system import linux
from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.cancellation import Cancellation
    from inlay.executor.executor import ProcessSpec
    from inlay.executor.launcher import Outcome
    from inlay.executor.prepared import PreparedSpec

_NOTHING_BUT_DATA = ["nosuid", "noexec", "nodev"]
_ATTRIBUTES = {
    "ro": linux.MOUNT_ATTR_RDONLY,
    "nosuid": linux.MOUNT_ATTR_NOSUID,
    "nodev": linux.MOUNT_ATTR_NODEV,
    "noexec": linux.MOUNT_ATTR_NOEXEC,
}
_FILTER_ANNOTATION = "run.oci.seccomp_bpf_data"
_OPTIONS = {
    # The runtime makes no cgroup: the pid namespace around it counts and kills all that it starts.
    "crun": ["--cgroup-manager=disabled"],
    # Rootless runc makes do without a cgroup that it may not make, and shows as much in no other way.
    "runc": ["--rootless=true"],
}


class OCIRuntimeExecutor:
    """Runs steps by `program`, the path of a crun or runc. See `Executor`.

    `folder` is made if it is missing, and stays empty: a step's bundle covers it in a mount namespace of
    its own.
    """

    __slots__ = ("_folder", "_launcher", "_program", "_takes_filter", "name")

    def __init__(self, program: str, folder: str, cgroup_parent: str = "") -> None:
        self.name = os.path.basename(program)
        self._program = program
        self._folder = os.path.abspath(folder)
        self._takes_filter = _takes_ready_filter(program)
        self._launcher = Launcher(cgroup_parent)
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def prepare(self) -> None:
        self._launcher.start()

    def run(self, spec: ProcessSpec, on_output: Callable[[int, bytes], None], cancel: Cancellation) -> int:
        self.prepare()
        log = os.memfd_create("runtime-log")
        output = bytearray()

        def watch_output(fd: int, data: bytes) -> None:
            if len(output) <= _MOST_OF_RUNTIME:
                output.extend(data)
            on_output(fd, data)

        def run(prepared: PreparedSpec) -> Outcome:
            return self._launcher.run(
                "bundle",
                self._arguments(spec, prepared, log_position=len(prepared.fds)),
                [*prepared.fds, log],
                watch_output,
                cancel,
                trusted=spec.security == "insecure",
            )

        try:
            outcome = with_prepared(spec, run)
            if outcome.exit_code and not cancel.cancelled:
                self._raise_own_failure(spec, outcome.exit_code, os.pread(log, 1 << 20, 0), bytes(output))
        finally:
            os.close(log)
        return outcome.exit_code

    def _raise_own_failure(self, spec: ProcessSpec, exit_code: int, log: bytes, output: bytes) -> None:
        """Raise what the runtime failed of, if it did and not the program.

        Once the container runs, a runtime can only say on stderr that it cannot execute the program: then that is all
        there is of `output`. A program may say the same, so the files have to show it too.
        """
        message = _logged_error(log)
        text = message or (_of_runtime(output, spec.args[0]) if exit_code in _RUNTIME_CODES else "")
        number = _exec_failure(text, spec.args[0])
        if number:
            from inlay.executor.executable import exec_errno, program_missing

            if message or exec_errno(spec) == number:
                raise program_missing(spec, number)
        if message:
            raise SolveError(f"the step could not be set up: {self.name}: {message}")

    def close(self) -> None:
        self._launcher.close()

    def _arguments(self, spec: ProcessSpec, prepared: PreparedSpec, log_position: int) -> dict[str, object]:
        """The keyword arguments of `inlay.executor.bundle.run`."""
        command = [
            self._program,
            f"--root={self._folder}/state",
            "--log=/proc/self/fd/3",
            "--log-format=json",
        ]
        config = runtime_spec(spec, prepared, self._folder, takes_filter=self._takes_filter)
        return {
            "folder": self._folder,
            "rootfs": prepared.rootfs,
            "mounts": prepared.mounts,
            "insecure": spec.security == "insecure",
            "config": json.dumps(config).encode(errors="surrogateescape"),
            "config_without_proc": json.dumps(_showing_outer_proc(config)).encode(errors="surrogateescape"),
            "command": [
                *command,
                *_OPTIONS.get(self.name, []),
                "run",
                f"--bundle={self._folder}",
                f"step-{os.urandom(4).hex()}",
            ],
            "log": log_position,
            "pids_limit": spec.pids_limit,
            "keeps_nodev": self.name == "runc",  # crun mounts the root file system anew, without
            "needs_own_proc": self.name == "runc",  # it looks itself up there by its number
        }


def runtime_spec(
    spec: ProcessSpec, prepared: PreparedSpec, folder: str, *, takes_filter: bool
) -> dict[str, object]:
    """The OCI runtime spec (config.json) of a step whose bundle is at `folder`.

    `takes_filter` says that the runtime takes the seccomp filter ready made, as crun does.

    BuildKit: executor/oci/spec.go. The bundle has `/dev` ready, without what depends on the namespaces, and
    `/sys`: only who owns the network namespace may make one, which for its own the runtime does.
    """
    insecure = spec.security == "insecure"
    machine = os.uname().machine
    own_filter = _ready_filter(machine) if takes_filter and not insecure else ""
    return {
        "ociVersion": "1.0.2",
        "process": _process(spec, prepared, insecure=insecure),
        "root": {"path": f"{folder}/rootfs", "readonly": spec.readonly_rootfs},
        "hostname": prepared.hostname,
        "mounts": _mounts(spec, prepared, folder, insecure=insecure),
        "linux": {
            "namespaces": [{"type": kind} for kind in _namespaces(spec)],
            "maskedPaths": [] if insecure else defaults.MASKED_PATHS,
            "readonlyPaths": [] if insecure else defaults.READONLY_PATHS,
            **({} if insecure or own_filter else {"seccomp": seccomp.runtime_profile(machine)}),
        },
        **({"annotations": {_FILTER_ANNOTATION: own_filter}} if own_filter else {}),
    }


def _takes_ready_filter(program: str) -> bool:
    """Whether it is a crun that knows the annotation; another would run without a filter."""
    with open(program, "rb") as file:
        return _FILTER_ANNOTATION.encode() in file.read()


def _ready_filter(machine: str) -> str:
    """The seccomp filter as crun takes it: made by inlay, where crun would need 7 ms to make it."""
    return b2a_base64(seccomp.filter_program(machine), newline=False).decode()


def _namespaces(spec: ProcessSpec) -> list[str]:
    kinds = ["pid", "ipc", "uts", "mount", "cgroup"]
    return [*kinds, "network"] if spec.network == "none" else kinds


def _process(spec: ProcessSpec, prepared: PreparedSpec, *, insecure: bool) -> dict[str, object]:
    granted = [f"CAP_{name}" for name in capabilities(spec)]
    kinds = ["bounding", "permitted", "effective", *(["inheritable", "ambient"] if insecure else [])]
    return {
        "args": spec.args,
        "env": prepared.env,
        "cwd": "/" + spec.cwd.lstrip("/"),
        "user": {"uid": spec.uid, "gid": spec.gid, "additionalGids": prepared.groups, "umask": 0o022},
        "capabilities": dict.fromkeys(kinds, granted),
        "noNewPrivileges": False,
        "rlimits": [
            {"type": f"RLIMIT_{limit.name.upper()}", "soft": limit.soft % 2**64, "hard": limit.hard % 2**64}
            for limit in spec.ulimits
        ],
    }


def _mounts(
    spec: ProcessSpec, prepared: PreparedSpec, folder: str, *, insecure: bool
) -> list[dict[str, object]]:
    def mount(target: str, kind: str, options: list[str], source: str = "") -> dict[str, object]:
        return {"destination": target, "type": kind, "source": source or kind, "options": options}

    access = "rw" if insecure else "ro"
    devices = [] if insecure else ["nodev"]
    pts = [f"{key}={value}" if value else key for key, value in defaults.pts_options()]
    return [
        mount("/proc", "proc", _NOTHING_BUT_DATA),
        mount("/dev", "bind", ["rbind", "nosuid"], f"{folder}/dev"),
        mount("/dev/pts", "devpts", ["nosuid", "noexec", *pts]),
        mount("/dev/shm", "tmpfs", [*_NOTHING_BUT_DATA, "mode=1777", f"size={spec.shm_size}"], "shm"),
        mount("/dev/mqueue", "mqueue", _NOTHING_BUT_DATA),
        mount("/sys", "sysfs", [*_NOTHING_BUT_DATA, access])
        if spec.network == "none"
        else mount("/sys", "bind", ["rbind", *_NOTHING_BUT_DATA, access], f"{folder}/sys"),
        mount("/sys/fs/cgroup", "cgroup", [*_NOTHING_BUT_DATA, access]),
        *(
            mount(target, "bind", ["rbind", *_flags(attributes), *devices], f"{folder}/m{position}")
            for position, (target, _, _, attributes) in enumerate(prepared.mounts)
        ),
    ]


def _flags(attributes: int) -> list[str]:
    """MOUNT_ATTR_* in the words of the runtime spec: what it is not told, a runtime may take away."""
    words = [word for word, flag in _ATTRIBUTES.items() if attributes & flag]
    return words if "ro" in words else ["rw", *words]


def _showing_outer_proc(config: dict[str, object]) -> dict[str, object]:
    """`config` with the runtime's `/proc` in the container, for where no new one can be mounted."""
    proc = {
        "destination": "/proc",
        "type": "bind",
        "source": "/proc",
        "options": ["rbind", *_NOTHING_BUT_DATA],
    }
    mounts = cast("list[dict[str, object]]", config["mounts"])
    return {**config, "mounts": [proc if each["destination"] == "/proc" else each for each in mounts]}


def _logged_error(log: bytes) -> str:
    """The last error in a runtime's JSON log; empty when there is none."""
    for line in reversed(log.splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("level") == "error":
            return str(entry.get("msg", ""))
    return ""


def _of_runtime(output: bytes, program: str) -> str:
    """All that a step has said, where it may be its runtime that could not execute `program`.

    That is one line, or crun's JSON, and names the program, by a path or in quotation marks. A program that misses
    another one may use the same words.
    """
    text = output.decode(errors="replace").rstrip()
    if len(output) > _MOST_OF_RUNTIME or ("\n" in text and not text.startswith("{")):
        return ""
    name = os.path.basename(program)
    return text if any(f"{before}{name}{after}" in text for before in '/"`' for after in '":`') else ""


def _exec_failure(message: str, program: str) -> int:
    """The errno with which executing `program` failed, as crun or runc tell it; 0: it was not that."""
    if not any(words in message for words in (*_EXEC_WORDS, f"exec {program}: ")):
        return 0
    return next((number for words, number in _REASONS.items() if words in message.lower()), 0)


_RUNTIME_CODES = (1, 255)
"""With which crun, runc, and runc since 1.2 end that cannot execute a program."""
_MOST_OF_RUNTIME = 4096
_EXEC_WORDS = (
    "executable file `",
    "the path `",
    "open executable",
    "exec container process",
    'exec: "',
    "exec /",
)
_REASONS = {
    "exec format error": errno.ENOEXEC,
    "permission denied": errno.EACCES,
    "operation not permitted": errno.EACCES,
    "not found": errno.ENOENT,
    "no such file": errno.ENOENT,
}
