"""store: opening the state directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from inlay.errors import UsageError
from inlay.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path


def test_a_store_of_another_version_is_refused_and_not_kept_from_others(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text("999\n")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UsageError, match="made by another version"):
        Store(str(tmp_path), warn=pytest.fail)
    assert os.listdir("/proc/self/fd") == before
