"""What a caller asks of a build, and what comes of it, as values. (`notation` reads the texts that flags take.)"""

from __future__ import annotations

from inlay.errors import UsageError
from inlay.golang.text import parse_bool
from inlay.typing import NamedTuple

ALLOW_NETWORK_HOST, ALLOW_SECURITY_INSECURE = "network.host", "security.insecure"


class Option(NamedTuple):
    """A `type=…,key=value` option: an output, a cache source or target, a secret, …"""

    type: str
    fields: tuple[tuple[str, str], ...] = ()

    def get(self, name: str, default: str = "") -> str:
        """The field's value; the last one where it is given several times."""
        return dict(self.fields).get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A Go-style boolean field; raise `UsageError` for anything else."""
        text = self.get(name)
        if not text:
            return default
        value = parse_bool(text)
        if value is None:
            raise UsageError(f"{name}={text} must be true or false")
        return value

    @property
    def is_forced(self) -> bool:
        """`force-compression`: as a name alone, or as a boolean."""
        return ("force-compression", "") in self.fields or self.flag("force-compression")

    def __str__(self) -> str:
        return ",".join([f"type={self.type}", *(f"{key}={value}" for key, value in self.fields)])


class Secret(NamedTuple):
    """A secret for `RUN --mount=type=secret`: read from a file (`path`) or from `variable`."""

    id: str
    path: str = ""
    variable: str = ""


class SshForward(NamedTuple):
    """An ssh agent's socket, or key files, for `RUN --mount=type=ssh`."""

    id: str
    paths: tuple[str, ...] = ()
    raw: bool = False
    """The step speaks with the socket itself, whatever listens there."""


class BuildRequest(NamedTuple):
    """One build. Everything has the default of `docker build`; `root` empty means the user's own store, and
    without `local_cache` only imported caches count."""

    context: str = "."
    dockerfile: str = ""
    tags: tuple[str, ...] = ()
    build_args: tuple[tuple[str, str], ...] = ()
    target: str = ""
    platforms: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    outputs: tuple[Option, ...] = ()
    cache_from: tuple[Option, ...] = ()
    cache_to: tuple[Option, ...] = ()
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    build_contexts: tuple[tuple[str, str], ...] = ()
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[SshForward, ...] = ()
    add_hosts: tuple[str, ...] = ()
    network: str = "default"
    shm_size: str = ""
    ulimits: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    cgroup_parent: str = ""
    step_timeout_s: float = 0.0  # 0: none
    root: str = ""
    runtime: str = ""
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[tuple[str, str], ...] = ()
    require_cached: bool = False
    explain: bool = False
    local_cache: bool = True


class Change(NamedTuple):
    """One thing that is not as it was: a file, an argument, a base image's digest.

    `before` and `after` describe it, in a few words; empty where there was, or is, no such thing.
    """

    what: str
    before: str = ""
    after: str = ""


class Explanation(NamedTuple):
    """Why nothing in any cache matched a step: sentences without a full stop, and what changed."""

    reasons: tuple[str, ...]
    changes: tuple[Change, ...] = ()


class StepOutcome(NamedTuple):
    """How one step of the Dockerfile ended.

    `outcome` is `cached`, `ran`, `failed`, or `missing` where `require_cached` kept it from running;
    `location` its place, such as `Dockerfile:3`. There is an `explanation` of steps that were not cached
    where one was asked for.
    """

    name: str
    outcome: str
    digest: str
    location: str = ""
    explanation: Explanation | None = None


class BuildResult(NamedTuple):
    """What a build made, and what became of its steps.

    `digest` names the manifest, or the index of several platforms, and is empty where no image was made;
    `config_digest` names the config of a single image. `bytes_pulled` and `bytes_pushed` count what registries
    sent and took; `warnings` are those about the Dockerfile, a sentence each.
    """

    digest: str
    config_digest: str
    steps: tuple[StepOutcome, ...]
    bytes_pulled: int
    bytes_pushed: int
    warnings: tuple[str, ...] = ()

    @property
    def steps_cached(self) -> int:
        return sum(step.outcome == "cached" for step in self.steps)

    @property
    def steps_run(self) -> int:
        return sum(step.outcome == "ran" for step in self.steps)
