"""A socket for a step that leads to the user's ssh agent, or to one made for some key files.

The step's socket is a new one, in a file system in memory, with the owner and mode that the Dockerfile asks
for. Over it a step can list keys and sign with them; it cannot change the agent, which is the user's
(BuildKit: session/sshforward/sshprovider). All is gone with the step, or with this process.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading

from inlay.actions.secrets import agent_paths
from inlay.errors import SolveError
from inlay.executor.memory import memory_files
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subprocess import Popen

    from inlay.llb.ops import SecretOption
    from inlay.request import SshForward

NAME = "agent.sock"
_KEYS_NAME = "keys.sock"
_CHUNK = 64 << 10
_MESSAGE_LIMIT = 256 << 10
"""Bytes of a message; OpenSSH's agent takes no more."""
_LIST_KEYS, _SIGN = 11, 13
_FAILURE = b"\0\0\0\1\5"
_START_TIMEOUT_S = 5.0
_SEND_TIMEOUT = struct.pack("@ll", 2, 0)
"""Seconds and microseconds, after which a side that takes nothing is given up; `close` waits no longer."""


class AgentSocket:
    """A socket named `NAME` in the detached mount `fd`, until `close`; other processes find it at `socket_path`."""

    def __init__(self, forward: SshForward, option: SecretOption) -> None:
        self._agent: Popen[bytes] | None = None
        self.fd = memory_files([])
        try:
            folder = f"/proc/{os.getpid()}/fd/{self.fd}"
            self.socket_path = f"{folder}/{NAME}"
            self._target = self._find_agent(forward, folder)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.socket_path)
            os.chown(self.socket_path, option.uid, option.gid)
            os.chmod(self.socket_path, (option.mode or 0o600) & 0o777)
            self._listener.listen()
        except BaseException:
            self._clean()
            raise
        self._raw = forward.raw
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="inlay-ssh", daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.close(self._wake_write)
        self._thread.join()
        os.close(self._wake_read)
        self._clean()

    def _clean(self) -> None:
        if self._agent is not None:
            assert self._agent.stdin is not None
            self._agent.stdin.close()
            self._agent.terminate()
            self._agent.wait()
        os.close(self.fd)

    def _find_agent(self, forward: SshForward, folder: str) -> str:
        """The socket of the agent to pass on to; one that is started here has it in `folder`."""
        paths = agent_paths(forward)
        import stat

        try:
            kinds = [stat.S_ISSOCK(os.stat(path).st_mode) for path in paths]
        except OSError as error:
            raise SolveError(f"ssh {forward.id}: cannot use {error.filename}: {error.strerror}") from error
        if not any(kinds):
            if forward.raw:
                raise SolveError(f"ssh {forward.id}: raw=true goes with a socket only, not with keys")
            return self._start_agent(forward.id, paths, f"{folder}/{_KEYS_NAME}")
        if len(paths) > 1:
            raise SolveError(f"ssh {forward.id}: one agent's socket, or key files, not both")
        return paths[0]

    def _start_agent(self, name: str, keys: tuple[str, ...], path: str) -> str:
        """Start an agent with `keys` at `path`. It ends with its `cat`, which ends with this process."""
        import subprocess

        try:
            self._agent = subprocess.Popen(
                ["ssh-agent", "-a", path, "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            _wait_for(path)
            added = subprocess.run(
                ["ssh-add", "-q", *keys],
                env={**os.environ, "SSH_AUTH_SOCK": path, "SSH_ASKPASS": "/bin/false"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                start_new_session=True,  # no terminal to ask for a passphrase on
            )
        except FileNotFoundError as error:
            raise SolveError(
                f"ssh {name}: {error.filename} is missing (Debian package openssh-client); "
                "forward an agent's socket instead"
            ) from error
        if added.returncode:
            reason = added.stderr.decode(errors="replace").strip().replace("\n", "; ")
            raise SolveError(f"ssh {name}: cannot use the key: {reason or 'it has a passphrase'}")
        return path

    def _serve(self) -> None:
        """Pass bytes between the step's connections and the agent's until told to stop."""
        peers: dict[int, _End] = {}
        poll = select.poll()  # select takes no descriptors from 1024 on
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        while self._wake_read not in (ready := [fd for fd, _ in poll.poll()]):
            for fd in ready:
                if fd in peers and not peers[fd].pass_on():
                    for sock in (peers[fd].sock, peers[fd].other):
                        poll.unregister(sock)
                        del peers[sock.fileno()]
                        sock.close()
            # Last, as a new connection may get the number of one that was closed.
            for end in self._accept() if self._listener.fileno() in ready else ():
                peers[end.sock.fileno()] = end
                poll.register(end.sock, select.POLLIN)
        for sock in [*(end.sock for end in peers.values()), self._listener]:
            sock.close()

    def _accept(self) -> tuple[_End, ...]:
        """The two ends of a new connection; nothing where the agent takes none."""
        near, _ = self._listener.accept()
        far = socket.socket(socket.AF_UNIX)
        for sock in (near, far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        try:
            far.connect(self._target)
        except OSError:
            near.close()
            far.close()
            return ()
        return (_End(near, far) if self._raw else _StepsEnd(near, far)), _End(far, near)


class _End:
    """One end of a connection, whose bytes go to the other."""

    def __init__(self, sock: socket.socket, other: socket.socket) -> None:
        self.sock = sock
        self.other = other

    def pass_on(self) -> bool:
        """Take what has come and hand it on; False once either side went away."""
        try:
            data = self.sock.recv(_CHUNK)
            return bool(data) and self._take(data)
        except OSError:
            return False

    def _take(self, data: bytes) -> bool:
        self.other.sendall(data)
        return True


class _StepsEnd(_End):
    """The end of a step, which may list keys and sign; all else is answered with a failure."""

    def __init__(self, sock: socket.socket, other: socket.socket) -> None:
        super().__init__(sock, other)
        self._pending = b""

    def _take(self, data: bytes) -> bool:
        self._pending += data
        while len(self._pending) > 4:
            end = 4 + int.from_bytes(self._pending[:4], "big")
            if end > _MESSAGE_LIMIT or end == 4:
                return False
            if len(self._pending) < end:
                break
            message, self._pending = self._pending[:end], self._pending[end:]
            if message[4] in (_LIST_KEYS, _SIGN):
                self.other.sendall(message)
            else:
                self.sock.sendall(_FAILURE)
        return True


def _wait_for(path: str) -> None:
    import time

    end = time.monotonic() + _START_TIMEOUT_S
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.005)
