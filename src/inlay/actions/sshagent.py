"""A socket for a step that leads to the user's ssh agent, or to one made for some key files.

The step's socket is a new one with the owner and mode that the Dockerfile asks for; what goes over it is
passed on to the agent. It is closed with the step.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import TYPE_CHECKING

from inlay.errors import SolveError

if TYPE_CHECKING:
    from subprocess import Popen

    from inlay.llb.ops import SecretOption
    from inlay.request import SshForward

CHUNK = 64 << 10


class AgentSocket:
    """`socket_path` is there until `close`."""

    def __init__(self, forward: SshForward, option: SecretOption) -> None:
        import tempfile

        self._agent: Popen[bytes] | None = None
        self._folder = tempfile.mkdtemp(prefix="inlay-ssh-")
        self.socket_path = f"{self._folder}/agent.sock"
        try:
            self._target = self._find_agent(forward)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.socket_path)
            os.chown(self.socket_path, option.uid, option.gid)
            os.chmod(self.socket_path, (option.mode or 0o600) & 0o777)
            self._listener.listen()
        except BaseException:
            self._clean()
            raise
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="inlay-ssh", daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.close(self._wake_write)
        self._thread.join()
        os.close(self._wake_read)
        self._clean()

    def _clean(self) -> None:
        import shutil

        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _find_agent(self, forward: SshForward) -> str:
        """The socket of the agent to pass on to."""
        paths = forward.paths or tuple(filter(None, [os.environ.get("SSH_AUTH_SOCK", "")]))
        if not paths:
            raise SolveError(f"ssh {forward.id}: SSH_AUTH_SOCK is not set, so there is no agent to forward")
        import stat

        try:
            kinds = [stat.S_ISSOCK(os.stat(path).st_mode) for path in paths]
        except OSError as error:
            raise SolveError(f"ssh {forward.id}: cannot use {error.filename}: {error.strerror}") from error
        if not any(kinds):
            return self._start_agent(forward.id, paths)
        if len(paths) > 1:
            raise SolveError(f"ssh {forward.id}: one agent's socket, or key files, not both")
        return paths[0]

    def _start_agent(self, name: str, keys: tuple[str, ...]) -> str:
        import subprocess

        path = f"{self._folder}/keys.sock"
        try:
            self._agent = subprocess.Popen(
                ["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for _ in range(200):
                if os.path.exists(path):
                    break
                threading.Event().wait(0.01)
            added = subprocess.run(
                ["ssh-add", "-q", *keys],
                env={**os.environ, "SSH_AUTH_SOCK": path, "SSH_ASKPASS": "/bin/false"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise SolveError(
                f"ssh {name}: {error.filename} is missing (Debian package openssh-client); "
                "forward an agent's socket instead"
            ) from error
        if added.returncode:
            raise SolveError(
                f"ssh {name}: cannot use the key: {added.stderr.decode(errors='replace').strip()}"
            )
        return path

    def _serve(self) -> None:
        """Pass bytes between the step's connections and the agent's until told to stop."""
        peers: dict[socket.socket, socket.socket] = {}
        while True:
            watched: list[int | socket.socket] = [self._wake_read, self._listener, *peers]
            ready, _, _ = select.select(watched, [], [])
            if self._wake_read in ready:
                break
            if self._listener in ready:
                self._accept(peers)
            for end in ready:
                if isinstance(end, socket.socket) and end in peers:
                    self._pass_on(end, peers)
        for end in [*peers, self._listener]:
            end.close()

    def _accept(self, peers: dict[socket.socket, socket.socket]) -> None:
        near, _ = self._listener.accept()
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(self._target)
        except OSError:
            near.close()
            far.close()
            return
        peers[near], peers[far] = far, near

    @staticmethod
    def _pass_on(end: socket.socket, peers: dict[socket.socket, socket.socket]) -> None:
        other = peers[end]
        try:
            data = end.recv(CHUNK)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass  # either side went away: so does the other
        for each in (end, other):
            del peers[each]
            each.close()
