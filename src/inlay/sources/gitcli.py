"""The `git` program: run with nothing of the user's or the machine's configuration, and ended when it hangs or when
this process ends, however that happens.

What is secret (headers, URLs with passwords) goes to it by its environment, never on the command line, where
every user of the machine could read it. Only http, https, git and ssh are spoken, whatever a repository's
submodules say.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import threading
import time

from inlay.errors import SourceError
from inlay.system.programs import find_program
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NETWORK = "http:https:git:ssh"
"""Protocols that a remote may be spoken to by."""
QUIET_S = 60.0
"""How long git may say nothing, unless it was told to take longer."""
_TRUST = ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_OUTPUT_LIMIT = 64 << 20
_LEASH = 'exec 3<&0 0</dev/null; { read -r _ <&3; kill -9 0; } >/dev/null 2>&1 & exec "$@" 3<&-'
"""A shell's script that runs a command and kills its process group, helpers and all, once the shell's standard input
ends: with the process that holds its other end. The kernel's own signal for that would reach git alone."""
_SETTINGS = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("init.defaultBranch", "master"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    (
        "fetch.unpackLimit",
        "1",
    ),  # a fetch that is killed leaves a pack, which is ignored, and no loose objects
    ("transfer.unpackLimit", "1"),
    ("advice.detachedHead", "false"),
    ("submodule.fetchJobs", "4"),
    ("credential.helper", ""),
)


class GitError(Exception):
    """git failed; `said` is what it wrote to its standard error, without what is secret."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class Access(NamedTuple):
    """How to be let in: the header of an http remote, settings and variables for git; and the `texts` in them
    that nobody may get to read."""

    header: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()

    def redact(self, text: str) -> str:
        for secret in self.texts:
            if len(secret) > 3:
                text = text.replace(secret, "xxxxx")
        return re.sub(r"(://)[^/@\s]+@", r"\1xxxxx@", text)


class Running:
    """What git runs for one source: `cancel` ends that, and all that it would run later."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()

    def cancel(self) -> None:
        with self._lock:
            self.is_cancelled = True
            for process in self._processes:
                _end(process, signal.SIGTERM)

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.add(process)
            if self.is_cancelled:
                _end(process, signal.SIGTERM)

    def discard(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.discard(process)

    def check(self) -> None:
        """Raise `SourceError` once it was cancelled."""
        if self.is_cancelled:
            raise SourceError("git was cancelled")


class Git:
    """Runs git with what a remote wants to be let in."""

    def __init__(self, access: Access, running: Running) -> None:
        self.access = access
        self.running = running

    def run(
        self,
        *arguments: str,
        git_dir: str = "",
        work_tree: str = "",
        protocols: str = NETWORK,
        settings: Sequence[tuple[str, str]] = (),
        quiet_s: float = 0.0,
    ) -> bytes:
        """Run `git ARGUMENTS` and return its output. Raises `GitError`, or `SourceError` where there is no git.

        It is ended when it says nothing for `quiet_s` seconds (0: `QUIET_S`).
        """
        self.running.check()
        command = [find_program("git")]
        if not command[0]:
            raise SourceError("git is not installed (Debian package git)")
        command += ["--git-dir", git_dir] if git_dir else []
        command += ["--work-tree", work_tree] if work_tree else []
        environment = self._environment(protocols, settings)
        process = subprocess.Popen(
            ["/bin/sh", "-c", _LEASH, "sh", *command, *arguments],
            cwd=work_tree or git_dir or "/",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            umask=0o022,
        )
        with process:
            output, said = self._watched(process, quiet_s or QUIET_S)
        self.running.check()
        if process.returncode:
            raise GitError(self.access.redact(said.decode(errors="replace").strip()))
        return output

    def _environment(self, protocols: str, settings: Sequence[tuple[str, str]]) -> Mapping[str, str]:
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C",
            "HOME": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": protocols,
            "GIT_HTTP_LOW_SPEED_LIMIT": "1",
            "GIT_HTTP_LOW_SPEED_TIME": "60",
        }
        if "SSL_CERT_FILE" in os.environ:  # what Python's own connections trust
            environment["GIT_SSL_CAINFO"] = os.environ["SSL_CERT_FILE"]
        for name in (*_TRUST, *_PROXIES, *(name.upper() for name in _PROXIES)):
            if name in os.environ:
                environment[name] = os.environ[name]
        environment |= dict(self.access.variables)
        all_settings = (*_SETTINGS, *self.access.settings, *settings)
        environment["GIT_CONFIG_COUNT"] = str(len(all_settings))
        for number, (name, value) in enumerate(all_settings):
            environment[f"GIT_CONFIG_KEY_{number}"] = name
            environment[f"GIT_CONFIG_VALUE_{number}"] = value
        return environment

    def _watched(self, process: subprocess.Popen[bytes], quiet_s: float) -> tuple[bytes, bytes]:
        """Read what `process` says until it ends."""
        self.running.add(process)
        try:
            return self._read(process, quiet_s)
        finally:
            self.running.discard(process)
            if process.poll() is None:
                _end(process, signal.SIGKILL)

    def _read(self, process: subprocess.Popen[bytes], quiet_s: float) -> tuple[bytes, bytes]:
        assert process.stdout is not None
        assert process.stderr is not None
        output, said = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(process.stderr, selectors.EVENT_READ, said)
            heard = time.monotonic()
            while selector.get_map():
                ready = selector.select(min(quiet_s, 1.0))
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > quiet_s:
                    raise GitError(f"no answer for {quiet_s:.0f} seconds")
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    key.data.extend(data)
                if len(output) > _OUTPUT_LIMIT:
                    raise GitError("it answers without end")
                del said[: -(64 << 10)]
        try:
            process.wait(quiet_s)
        except subprocess.TimeoutExpired:
            raise GitError("it does not end") from None
        return bytes(output), bytes(said)


def _end(process: subprocess.Popen[bytes], how: int) -> None:
    """Signal a process and all its helpers."""
    try:
        os.killpg(process.pid, how)
    except ProcessLookupError:
        return
