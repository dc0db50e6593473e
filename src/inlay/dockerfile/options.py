"""What a conversion is asked for beside the Dockerfile, and BuildKit's names for it (dockerui/{attr,config}.go)."""

from __future__ import annotations

from inlay.dockerfile.linter import LintOptions
from inlay.dockerfile.literals import (
    check_cpuset,
    parse_bool,
    parse_csv,
    parse_int,
    parse_ip,
    parse_uint,
    parse_ulimit,
)
from inlay.errors import UsageError
from inlay.golang import text as go
from inlay.llb.graph import Resources
from inlay.llb.ops import NETWORK_HOST, NETWORK_NONE, NETWORK_SANDBOX, HostIP, Ulimit
from inlay.platform import Platform, normalise, parse
from inlay.typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inlay.llb.graph import Vertex

Text = TypeVar("Text")
Value = TypeVar("Value")

MERGE = "mergeop"
BIND_WITHOUT_OUTPUT = "exec.mount.bind.readwrite-nooutput"
SETS_DEFAULT_PATH = "exec.meta.setsdefaultpath"

_NETWORKS = {"": NETWORK_SANDBOX, "sandbox": NETWORK_SANDBOX, "host": NETWORK_HOST, "none": NETWORK_NONE}
_RESOLVE_MODES = ("default", "pull", "local")


class ConvertOptions(NamedTuple):
    """Everything that steers a conversion.

    `parse` makes one out of BuildKit's frontend options, the names that `docker buildx` and `buildctl --opt` use.
    """

    build_platform: Platform
    """Where the build runs; also the target where `platforms` is empty."""
    platforms: tuple[Platform, ...] = ()
    multi_platform: bool = False
    """Name steps by their platform, and make an index even of one platform."""
    target: str = ""
    filename: str = "Dockerfile"
    """For messages only."""
    build_args: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    context: str = ""
    """A git or http(s) URL, or empty for the local folder `context`."""
    context_subdir: str | None = None
    named_contexts: Mapping[str, str] = {}
    """`NAME` or `NAME::PLATFORM` to `docker-image://…`, `local:…`, `oci-layout://…`, a URL, or `input:…`."""
    inputs: Mapping[str, Vertex | None] = {}
    """What `input:NAME` is; None is scratch."""
    shared_keys: Mapping[str, str] = {}
    session: str = "inlay"
    """A text in the bytes of local sources; in no cache key."""
    sessions: Mapping[str, str] = {}
    """Other sessions by the name of a local source."""
    dockerignore: bytes | None = None
    """The build context's ignore file: `<Dockerfile>.dockerignore` if there is one, else `.dockerignore`."""
    dockerignore_name: str = ".dockerignore"
    no_cache: tuple[str, ...] | None = None
    """Names of stages that must run again; empty for all, None for none."""
    resolve_mode: str = "default"
    network: int = NETWORK_SANDBOX
    extra_hosts: tuple[HostIP, ...] = ()
    hostname: str = ""
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    cgroup_parent: str = ""
    resources: Resources | None = None
    cache_namespace: str = ""
    keep_git_dir: bool = False
    """Keep `.git` of a git context."""
    lint: LintOptions | None = None
    """In place of the Dockerfile's own `# check=`."""
    all_stages: bool = False
    """Convert stages that the target does not need, too: for lint."""
    missing: frozenset[str] = frozenset()
    """Capabilities to do without: `mergeop` and so on. An old daemon's LLB."""

    @classmethod
    def parse(cls, options: Mapping[str, str], build_platform: Platform) -> ConvertOptions:
        """Read frontend options such as `build-arg:X`, `target`, `platform`, `context:NAME`, `no-cache`.

        Raises `UsageError` with BuildKit's message.
        """
        return _parse(options, build_platform)


def _parse(options: Mapping[str, str], build_platform: Platform) -> ConvertOptions:
    platforms = _platforms(options.get("platform", ""))
    mode = options.get("image-resolve-mode") or "default"
    if mode not in _RESOLVE_MODES:
        raise UsageError(f"invalid image-resolve-mode: {mode}")
    hosts = _checked("additional hosts", _extra_hosts, options.get("add-hosts", ""))
    shm_size = _checked("shm size", _shm_size, options.get("shm-size", ""))
    ulimits = _checked("ulimit", _ulimits, options.get("ulimit", ""))
    resources = _checked("resource limits", _resources, options)
    network = options.get("force-network-mode", "")
    if network not in _NETWORKS:
        raise UsageError(f"invalid netmode {network}")
    arg = {
        name.removeprefix("build-arg:"): value
        for name, value in options.items()
        if name.startswith("build-arg:")
    }
    no_cache = options.get("no-cache")
    return ConvertOptions(
        build_platform=build_platform,
        platforms=platforms,
        multi_platform=_multi_platform(options, platforms),
        target=options.get("target", ""),
        filename=options.get("filename", "Dockerfile"),
        build_args=arg,
        labels=_with_prefix(options, "label:"),
        context=options.get(options.get("contextkey", "context"), ""),
        context_subdir=options.get("contextsubdir"),
        named_contexts=_with_prefix(options, "context:"),
        shared_keys=_with_prefix(options, "sharedkey:localdir:"),
        sessions=_with_prefix(options, "local-sessionid:"),
        no_cache=None if no_cache is None else tuple(no_cache.split(",")) if no_cache else (),
        resolve_mode=mode,
        network=_NETWORKS[network],
        extra_hosts=hosts,
        hostname=arg.get("BUILDKIT_SANDBOX_HOSTNAME") or options.get("hostname", ""),
        shm_size=shm_size,
        ulimits=ulimits,
        cgroup_parent=options.get("cgroup-parent", ""),
        resources=resources,
        cache_namespace=arg.get("BUILDKIT_CACHE_MOUNT_NS", ""),
        keep_git_dir=go.parse_bool(arg.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "")) is True,
        lint=_lint(arg.get("BUILDKIT_DOCKERFILE_CHECK")),
    )


def _with_prefix(options: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name[len(prefix) :]: value for name, value in options.items() if name.startswith(prefix)}


def _checked(what: str, read: Callable[[Text], Value], value: Text) -> Value:
    try:
        return read(value)
    except ValueError as error:
        raise UsageError(f"failed to parse {what}: {error}") from None


def _platforms(text: str) -> tuple[Platform, ...]:
    platforms = []
    for name in text.split(",") if text else ():
        try:
            platforms.append(normalise(parse(name)))
        except UsageError as error:
            raise UsageError(f"failed to parse target platform {name}: {error}") from None
    return tuple(platforms)


def _multi_platform(options: Mapping[str, str], platforms: tuple[Platform, ...]) -> bool:
    text = options.get("build-arg:BUILDKIT_MULTI_PLATFORM") or options.get("multi-platform", "")
    if not text:
        return len(platforms) > 1
    try:
        wanted = parse_bool(text)
    except ValueError:
        raise UsageError(f"invalid boolean value for multi-platform: {text}") from None
    if not wanted and len(platforms) > 1:
        raise UsageError("conflicting config: returning multiple target platforms is not allowed")
    return wanted


def _extra_hosts(text: str) -> tuple[HostIP, ...]:
    hosts = []
    for field in parse_csv(text) if text else ():
        host, equals, address = field.lower().partition("=")
        if not equals:
            raise ValueError(f"invalid key-value pair {field}")
        ip = parse_ip(address)
        if not ip:
            raise ValueError(f"failed to parse IP {address}")
        hosts.append(HostIP(host, ip))
    return tuple(hosts)


def _shm_size(text: str) -> int:
    return parse_int(text) if text else 0


def _ulimits(text: str) -> tuple[Ulimit, ...]:
    return tuple(parse_ulimit(field) for field in parse_csv(text)) if text else ()


def _resources(options: Mapping[str, str]) -> Resources | None:
    limits = Resources(
        memory=_limit(options, "memory", parse_int),
        memory_swap=_limit(options, "memswap", parse_int, unlimited=True),
        cpu_shares=_limit(options, "cpushares", parse_uint),
        cpu_period=_limit(options, "cpuperiod", parse_uint),
        cpu_quota=_limit(options, "cpuquota", parse_int),
        cpuset_cpus=_cpuset(options, "cpusetcpus"),
        cpuset_mems=_cpuset(options, "cpusetmems"),
    )
    return limits if any(limits) else None


def _limit(
    options: Mapping[str, str], name: str, read: Callable[[str], int], *, unlimited: bool = False
) -> int:
    text = options.get(name, "")
    if not text:
        return 0
    wrong = f"invalid {name} value: {text}"
    try:
        limit = read(text)
    except ValueError as error:
        raise ValueError(f"{wrong}: {error}") from None
    if unlimited and (limit < -1 or limit == 0):
        raise ValueError(f"{wrong}: must be -1 (unlimited) or > 0")
    if not unlimited and limit <= 0:
        raise ValueError(f"{wrong}: must be > 0")
    return limit


def _cpuset(options: Mapping[str, str], name: str) -> str:
    text = options.get(name, "")
    if text:
        try:
            check_cpuset(text)
        except ValueError as error:
            raise ValueError(f"invalid {name} value: {text}: {error}") from None
    return text


def _lint(text: str | None) -> LintOptions | None:
    if text is None:
        return None
    try:
        return LintOptions.parse(text)
    except ValueError as error:
        raise UsageError(f"failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {error}") from None
