"""Connections by a host's name."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from inlay.errors import RegistryError
from inlay.registry.dial import Abort, dial

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_host_is_found_by_its_name(port: int) -> None:
    sock = dial("localhost", port, timeout_s=10, abort=Abort())
    assert sock.getpeername() == ("127.0.0.1", port)
    sock.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "x..y", "\u20ac..y"])
def test_a_name_of_no_host_is_an_error_of_the_system(host: str) -> None:
    with pytest.raises(OSError, match=r"not known|no address|not a host name|resolution|Temporary"):
        dial(host, 80, timeout_s=30, abort=Abort())


def test_looking_a_name_up_can_be_aborted_and_takes_no_longer_than_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    hangs = threading.Event()
    monkeypatch.setattr("_socket.getaddrinfo", lambda *_: hangs.wait(60))
    try:
        with pytest.raises(TimeoutError, match="looking up slow"):
            dial("slow.example", 80, timeout_s=0.1, abort=Abort())
        abort = Abort()
        abort()
        with pytest.raises(RegistryError, match="cancelled"):
            dial("slow.example", 80, timeout_s=60, abort=abort)
    finally:
        hangs.set()


def test_looking_a_name_up_imports_nothing_that_takes_long(port: int) -> None:
    code = (
        "import sys; bare = set(sys.modules); from inlay.registry.dial import Abort, dial; "
        f"dial('localhost', {port}, timeout_s=10, abort=Abort()); print(*(set(sys.modules) - bare))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"threading", "socket", "ssl", "re"} & set(done.stdout.split())
