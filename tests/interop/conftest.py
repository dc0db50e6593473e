"""The BuildKit that all tests here share. They are skipped where buildkitd and buildctl are not on PATH."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from buildkit import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import RunningRegistry


@pytest.fixture(scope="session")
def daemon(docker_registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if not shutil.which("buildkitd") or not shutil.which("buildctl"):
        pytest.skip("buildkitd and buildctl are not on PATH")
    running = Daemon(tmp_path_factory.mktemp("buildkit"), docker_registry.host)
    yield running
    running.process.terminate()
    running.process.wait(20)
