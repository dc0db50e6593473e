"""The BuildKit that all tests here share. They are skipped where buildkitd and buildctl are not on PATH."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from buildkit import Builders, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunningRegistry


@pytest.fixture(scope="session")
def daemon(docker_registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if not shutil.which("buildkitd") or not shutil.which("buildctl"):
        pytest.skip("buildkitd and buildctl are not on PATH")
    running = Daemon(tmp_path_factory.mktemp("buildkit"), docker_registry.host)
    yield running
    running.stop()


@pytest.fixture
def builders(daemon: Daemon, tmp_path: Path) -> Builders:
    return Builders(daemon, tmp_path)
