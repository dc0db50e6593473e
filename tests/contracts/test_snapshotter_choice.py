"""Which snapshotter a store gets is found out once, whoever needs it first."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from inlay.snapshot.choose import choose_snapshotter
from inlay.system import privileges

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


def test_layers_that_come_in_at_the_same_time_bring_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shortage() -> str:
        time.sleep(0.05)
        return "only 1 user id is mapped"

    monkeypatch.setattr(privileges, "shortage", shortage)
    warned: list[str] = []
    snapshotter = choose_snapshotter(str(tmp_path), warn=warned.append)
    threads = [threading.Thread(target=lambda: snapshotter.receive().discard()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warned.count("only 1 user id is mapped") == 1
