"""A step's socket leads to an agent, in a busy process too, and is gone in time."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from inlay.actions.sshagent import AgentSocket
from inlay.llb.ops import SecretOption
from inlay.request import SshForward

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


class Echo:
    """An agent that sends back what it gets, or takes nothing at all."""

    def __init__(self, path: str) -> None:
        self.forward = SshForward("default", (path,), raw=True)
        self.is_deaf = False
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            while not self.is_deaf and (data := connection.recv(1000)):
                connection.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Echo]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    echo = Echo(str(tmp_path / "agent"))
    yield echo
    echo.close()


def connect(agent: AgentSocket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(agent.socket_path)
    return client


def test_it_works_where_more_than_a_thousand_files_are_open(agent: Echo) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, before[1]), before[1]))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1030)]
    try:
        made = AgentSocket(agent.forward, SecretOption())
        for text in (b"one", b"two"):
            with connect(made) as client:
                client.sendall(text)
                assert client.recv(10) == text
        made.close()
    finally:
        for fd in files:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_agent_that_takes_nothing_does_not_keep_a_step_from_ending(agent: Echo) -> None:
    agent.is_deaf = True
    made = AgentSocket(agent.forward, SecretOption())
    with connect(made) as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(10 << 20))
        closing = threading.Thread(target=made.close, daemon=True)
        begun = time.monotonic()
        closing.start()
        closing.join(10)
        assert not closing.is_alive()
        assert time.monotonic() - begun < 5
