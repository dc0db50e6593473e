"""The ops of LLB, as BuildKit's solver/pb/ops.proto has them: the same fields in the same order.

Zero and empty mean "not set", as in proto3; None is a message that is not there. Texts may hold lone
surrogates for bytes that are not UTF-8; such an op has no bytes (`wire.encode` raises).
"""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final, TypeAlias


EMPTY: Final = -1
"""As an input: scratch."""
NO_OUTPUT: Final = -1
"""As an output: what the step writes there is dropped."""

BIND: Final = 0
SECRET: Final = 1
SSH: Final = 2
CACHE: Final = 3
TMPFS: Final = 4

NETWORK_SANDBOX: Final = 0
NETWORK_HOST: Final = 1
NETWORK_NONE: Final = 2

SECURITY_SANDBOX: Final = 0
SECURITY_INSECURE: Final = 1

SHARED: Final = 0
PRIVATE: Final = 1
LOCKED: Final = 2

CONTENT_CACHE_DEFAULT: Final = 0
CONTENT_CACHE_ON: Final = 1
CONTENT_CACHE_OFF: Final = 2


class SourceOp(NamedTuple):
    """Something from outside: `docker-image://`, `oci-layout://`, `local://`, `git://`, `http(s)://`."""

    identifier: str = ""
    attrs: tuple[tuple[str, str], ...] = ()
    """(name, value), sorted by name."""

    @property
    def scheme(self) -> str:
        return self.identifier.partition("://")[0]

    def attr(self, name: str) -> str:
        """The attribute's value; empty when it is not set."""
        return next((value for key, value in self.attrs if key == name), "")


class ProxyEnv(NamedTuple):
    http_proxy: str = ""
    https_proxy: str = ""
    ftp_proxy: str = ""
    no_proxy: str = ""
    all_proxy: str = ""


class HostIP(NamedTuple):
    host: str = ""
    ip: str = ""


class Ulimit(NamedTuple):
    name: str = ""
    soft: int = 0
    hard: int = 0


class Meta(NamedTuple):
    """What a container's process is: arguments, environment (`NAME=value`) and surroundings."""

    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    proxy_env: ProxyEnv | None = None
    extra_hosts: tuple[HostIP, ...] = ()
    hostname: str = ""
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    remove_mount_stubs: bool = False
    valid_exit_codes: tuple[int, ...] = ()


class SecretEnv(NamedTuple):
    """An environment variable `name` with the value of secret `id`."""

    id: str = ""
    name: str = ""
    optional: bool = False


class Device(NamedTuple):
    name: str = ""
    optional: bool = False


class TmpfsOption(NamedTuple):
    size: int = 0
    """Bytes; 0 is no limit."""


class CacheOption(NamedTuple):
    id: str = ""
    sharing: int = SHARED


class SecretOption(NamedTuple):
    """A secret's file, or an agent's socket."""

    id: str = ""
    uid: int = 0
    gid: int = 0
    mode: int = 0
    optional: bool = False


class Mount(NamedTuple):
    """One mount of an `ExecOp`; `input` is an index into the op's inputs, or `EMPTY`."""

    input: int = 0
    selector: str = ""
    dest: str = ""
    output: int = 0
    readonly: bool = False
    type: int = BIND
    tmpfs: TmpfsOption | None = None
    cache: CacheOption | None = None
    secret: SecretOption | None = None
    ssh: SecretOption | None = None
    result_id: str = ""
    content_cache: int = CONTENT_CACHE_DEFAULT


class ExecOp(NamedTuple):
    """Run a process on the root mount."""

    meta: Meta | None = None
    mounts: tuple[Mount, ...] = ()
    network: int = NETWORK_SANDBOX
    security: int = SECURITY_SANDBOX
    secret_env: tuple[SecretEnv, ...] = ()
    devices: tuple[Device, ...] = ()


class User(NamedTuple):
    """A user or group, by `name` (looked up in the tree `input`) or, where `name` is None, by `id`."""

    name: str | None = None
    input: int = 0
    id: int = 0


class Owner(NamedTuple):
    user: User | None = None
    group: User | None = None


class Copy(NamedTuple):
    """Copy `src` of the secondary input to `dest`. `mode` -1 keeps the mode; so does `timestamp`, in ns."""

    src: str = ""
    dest: str = ""
    owner: Owner | None = None
    mode: int = 0
    follow_symlink: bool = False
    copy_dir_contents: bool = False
    unpack: bool = False
    create_dest_path: bool = False
    allow_wildcard: bool = False
    allow_empty_wildcard: bool = False
    timestamp: int = 0
    include_patterns: tuple[str, ...] = ()
    exclude_patterns: tuple[str, ...] = ()
    replace_existing: bool = False
    mode_text: str = ""
    """A symbolic mode such as `u+x`."""
    required_paths: tuple[str, ...] = ()


class MakeFile(NamedTuple):
    path: str = ""
    mode: int = 0
    data: bytes = b""
    owner: Owner | None = None
    timestamp: int = 0


class MakeDirectory(NamedTuple):
    path: str = ""
    mode: int = 0
    make_parents: bool = False
    owner: Owner | None = None
    timestamp: int = 0


class Remove(NamedTuple):
    path: str = ""
    allow_not_found: bool = False
    allow_wildcard: bool = False


class Symlink(NamedTuple):
    old_path: str = ""
    new_path: str = ""
    owner: Owner | None = None
    timestamp: int = 0


Action: TypeAlias = Copy | MakeFile | MakeDirectory | Remove | Symlink


class FileAction(NamedTuple):
    """One change to the tree `input`.

    Inputs below the number of the op's inputs are those; above, they are earlier actions of the same op.
    """

    input: int = 0
    secondary_input: int = 0
    output: int = 0
    action: Action = Copy()


class FileOp(NamedTuple):
    actions: tuple[FileAction, ...] = ()


class InputRef(NamedTuple):
    input: int = 0


class MergeOp(NamedTuple):
    """Lay the inputs' own layers over each other."""

    inputs: tuple[InputRef, ...] = ()


class DiffOp(NamedTuple):
    """What `upper` has over `lower`, as a tree of its own."""

    lower: InputRef | None = None
    upper: InputRef | None = None


Op: TypeAlias = SourceOp | ExecOp | FileOp | MergeOp | DiffOp
