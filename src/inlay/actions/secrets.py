"""Secrets and ssh agents for steps. Values are read when a step asks, kept in memory only, never logged."""

from __future__ import annotations

import os

from inlay.errors import SolveError
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.actions.sshagent import AgentSocket
    from inlay.llb.ops import SecretEnv, SecretOption
    from inlay.request import Secret, SshForward

SECRET_LIMIT = 500 << 10
"""Bytes of a secret (BuildKit: session/secrets/secretsprovider)."""


class SecretFile(NamedTuple):
    """A secret as a file named `name` in the detached mount `fd`."""

    fd: int
    name: str

    def close(self) -> None:
        os.close(self.fd)


class Secrets:
    """What the caller of the build has given by `--secret` and `--ssh`."""

    def __init__(self, secrets: Sequence[Secret], ssh: Sequence[SshForward]) -> None:
        self._secrets = {secret.id: secret for secret in secrets}
        self._ssh = {forward.id: forward for forward in ssh}

    def check(self) -> None:
        """Raise `SolveError` for a file, variable or agent that is not there, before anything runs."""
        for name, secret in self._secrets.items():
            if secret.path and (reason := _unreadable(secret.path)):
                raise SolveError(f"secret {name}: cannot read {secret.path}: {reason}")
            if secret.path and os.path.getsize(secret.path) > SECRET_LIMIT:
                raise _too_large(name)
            if secret.variable and secret.variable not in os.environ:
                raise SolveError(f"secret {name}: the environment has no variable {secret.variable}")
        for name, forward in self._ssh.items():
            if not agent_paths(forward):
                raise SolveError(f"ssh {name}: SSH_AUTH_SOCK is not set, so there is no agent to forward")
            for path in agent_paths(forward):
                if reason := _unreadable(path):
                    raise SolveError(f"ssh {name}: cannot use {path}: {reason}")

    def value(self, name: str) -> bytes | None:
        """The secret's bytes; None where the caller gave none of that name."""
        secret = self._secrets.get(name)
        if secret is None:
            return None
        if secret.variable:
            return os.environb.get(os.fsencode(secret.variable))
        path = secret.path
        if not path:
            if name in os.environ:
                return os.environb[os.fsencode(name)]
            path = name
        try:
            with open(path, "rb") as file:
                value = file.read(SECRET_LIMIT + 1)
        except OSError as error:
            raise SolveError(f"secret {name}: cannot read {path}: {error.strerror}") from error
        if len(value) > SECRET_LIMIT:
            raise _too_large(name)
        return value

    def environment(self, wanted: Sequence[SecretEnv]) -> list[str]:
        """`NAME=value` for each wanted secret. Raises `SolveError` for a required one that is missing."""
        entries = []
        for each in wanted:
            value = self.value(each.id)
            if value is None and not each.optional:
                raise missing_secret(each.id)
            if value is not None and b"\0" in value:
                raise SolveError(
                    f"secret {each.id}: {each.name} cannot hold its zero bytes; mount it as a file"
                )
            # BuildKit sets the variable also where an optional secret is missing, to nothing.
            entries.append(f"{each.name}={os.fsdecode(value or b'')}")
        return entries

    def mount(self, option: SecretOption) -> SecretFile | None:
        """The secret as a file in memory; None for an optional one that is missing."""
        from inlay.executor.memory import MemoryFile, memory_files

        value = self.value(option.id)
        if value is None:
            if option.optional:
                return None
            raise missing_secret(option.id)
        file = MemoryFile("secret", value, option.mode & 0o777, option.uid, option.gid)
        return SecretFile(memory_files([file]), file.name)

    def agent(self, option: SecretOption) -> AgentSocket | None:
        """A socket that leads to the ssh agent; None for an optional one that is missing."""
        from inlay.actions.sshagent import AgentSocket

        name = option.id or "default"
        forward = self._ssh.get(name)
        if forward is None:
            if option.optional:
                return None
            raise SolveError(f"ssh {name}: not given; pass --ssh {name}, with an agent or key files")
        return AgentSocket(forward, option)


def agent_paths(forward: SshForward) -> tuple[str, ...]:
    """The socket or key files that `forward` names; by default the user's own agent, if there is one."""
    return forward.paths or tuple(filter(None, [os.environ.get("SSH_AUTH_SOCK", "")]))


def _too_large(name: str) -> SolveError:
    return SolveError(f"secret {name}: larger than the {SECRET_LIMIT} bytes that a secret may have")


def missing_secret(name: str) -> SolveError:
    return SolveError(f"secret {name}: not found; pass --secret id={name},src=FILE or id={name},env=NAME")


def _unreadable(path: str) -> str:
    """Why a file or socket cannot be read; empty where it can."""
    if os.access(path, os.R_OK):
        return ""
    return "permission denied" if os.path.lexists(path) else "no such file or directory"
