"""Registries to test against, and transports that do not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inlay.registry.transport import Settings, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunningRegistry


@pytest.fixture
def transport() -> Iterator[Transport]:
    """A transport with short waits that knows no credentials and no proxies."""
    made = Transport(Settings(backoff_s=0.001, read_timeout_s=10, environment={}), lambda host: None)
    yield made
    made.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Transport]]:
    """Makes transports with other settings."""
    made: list[Transport] = []

    def make(credential: object = lambda host: None, **settings: object) -> Transport:
        fields = {"backoff_s": 0.001, "read_timeout_s": 10, "environment": {}, **settings}
        made.append(Transport(Settings(**fields), credential))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for transport in made:
        transport.close()


@pytest.fixture(params=["docker-registry", "fake"])
def host(request: pytest.FixtureRequest) -> Iterator[str]:
    """A registry's host: the real one's, and the fake's, so that the fake stays true."""
    if request.param == "docker-registry":
        running: RunningRegistry = request.getfixturevalue("docker_registry")
        yield running.host
    else:
        yield request.getfixturevalue("fake").host
