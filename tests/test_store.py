"""store: opening the state directory."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from inlay.errors import UsageError
from inlay.store.store import Store
from inlay.system.sqlite import open_tables

if TYPE_CHECKING:
    from pathlib import Path


def test_a_store_of_another_version_is_refused_and_not_kept_from_others(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text("999\n")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UsageError, match="made by another version"):
        Store(str(tmp_path), warn=pytest.fail)
    assert os.listdir("/proc/self/fd") == before


def test_a_store_that_cannot_be_begun_is_refused_in_a_sentence(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", tmp_path], check=True)
    try:
        (tmp_path / "full").write_bytes(bytes(4096))
        with pytest.raises(UsageError, match=f"cannot keep state in {tmp_path}: no space left on device; "):
            Store(str(tmp_path), warn=pytest.fail)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_tables_are_made_all_or_none(tmp_path: Path) -> None:
    import sqlite3

    one = "CREATE TABLE IF NOT EXISTS one (key TEXT);"
    with pytest.raises(sqlite3.OperationalError, match="syntax error"):
        open_tables(f"{tmp_path}/tables", f"{one} CREATE TABLE two;")
    tables = open_tables(f"{tmp_path}/tables", f"{one} CREATE TABLE IF NOT EXISTS two (key TEXT);")
    assert tables.execute("SELECT count(*) FROM two").fetchone() == (0,)
    tables.close()
