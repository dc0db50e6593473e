"""What running one process of a build needs and promises, whichever runtime does it.

Every executor gives a step the same surroundings, BuildKit's (executor/oci/spec.go there): its own mount,
pid, ipc and uts namespaces, a root file system that it cannot see beyond, docker's default capabilities
and seccomp profile, `/proc`, `/dev`, `/sys`, `/etc/hosts` and `/etc/resolv.conf`. tests/contracts holds
them to it.
"""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from inlay.cancellation import Cancellation

    Network = Literal["sandbox", "host", "none"]
    Security = Literal["sandbox", "insecure"]


DEFAULT_HOSTNAME = "buildkitsandbox"
DEFAULT_SHM_SIZE = 64 << 20
DEFAULT_PIDS_LIMIT = 16384


class Bind(NamedTuple):
    """Show `source` at `target`.

    `source` is a path on this machine, or the descriptor of a detached mount, which this use consumes (it
    can still be read afterwards, not attached again; one spec may use it several times). `selector` is a
    file or folder inside it; neither symlinks nor `..` lead out of the source. What is `only_data` holds no
    programs or devices for a step.
    """

    target: str
    source: int | str
    selector: str = ""
    readonly: bool = False
    only_data: bool = False


class Tmpfs(NamedTuple):
    """An empty file system in memory at `target`, of at most `size` bytes (0: half of the memory)."""

    target: str
    size: int = 0
    mode: int = 0o1777


Mount = Bind | Tmpfs


class Ulimit(NamedTuple):
    """A resource limit by its docker name (`nofile`, `nproc`, …); -1 is no limit."""

    name: str
    soft: int
    hard: int


class ProcessSpec(NamedTuple):
    """One process to run.

    `rootfs` is the descriptor of a detached mount, consumed like `Bind.source`, or the path of a folder.
    `args[0]` is looked up in `env`'s PATH inside the root file system. `env` holds `NAME=value` strings;
    a HOME that is missing comes from the image's /etc/passwd. `cwd` is made when it is missing. `mounts` are
    made in order; of two with one target the later wins. Strings that stand for bytes carry them as
    `os.fsdecode` does. `pids_limit` counts processes and threads.
    """

    args: tuple[str, ...]
    rootfs: int | str
    env: tuple[str, ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: Network = "sandbox"
    security: Security = "sandbox"
    hostname: str = ""
    extra_hosts: tuple[tuple[str, str], ...] = ()  # (name, IP address)
    ulimits: tuple[Ulimit, ...] = ()
    readonly_rootfs: bool = False
    shm_size: int = DEFAULT_SHM_SIZE
    pids_limit: int = DEFAULT_PIDS_LIMIT


class Executor(Protocol):
    """Runs processes. Safe to use from several threads at once."""

    @property
    def name(self) -> str:
        """`crun`, `runc` or `builtin`."""

    def prepare(self) -> None:
        """Begin to get ready, without waiting: the first `run` will start sooner."""

    def run(self, spec: ProcessSpec, on_output: Callable[[int, bytes], None], cancel: Cancellation) -> int:
        """Run a process to its end; return its exit code, 128 + the signal when one killed it.

        `on_output` gets the bytes written to descriptor 1 or 2 as they come, on the calling thread. On
        return no process of the step is left, nor a mount; `cancel` kills them all, and the code is then
        137. What the mounts and the executor's own files needed as mount points is taken out of the root
        file system again. Raises `ProcessFailed` (126 or 127) when there is no such program or it cannot be
        executed, `SolveError` when the step cannot be set up.
        """

    def close(self) -> None:
        """End what is still running and free everything held."""
