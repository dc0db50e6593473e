"""SQLite files of a store: opened, begun, and moved aside where they are broken."""

from __future__ import annotations

import os

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

BUSY_TIMEOUT_S = 10.0
"""How long a change waits for those of other processes."""


def open_tables(path: str, schema: str) -> sqlite3.Connection:
    """Open the file at `path`, in WAL mode and without transactions of Python's own; make `schema` in a new one.

    The file is whole after a crash; the last changes before a power cut may be missing. Raises SQLite's
    `OperationalError` where it cannot be opened now, other `DatabaseError`s where it is broken.
    """
    import _sqlite3 as sqlite3

    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # of a file without anything, nothing can be lost
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            connection.execute("PRAGMA journal_mode = WAL")
            # All or nothing: a file with a part of its tables would never get the others.
            connection.executescript(f"BEGIN IMMEDIATE; {schema}; COMMIT")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def move_aside(path: str) -> str:
    """Move the file at `path`, with SQLite's own beside it, out of the way; return where it is now."""
    aside = f"{path}.broken"
    for suffix in ("", "-wal", "-shm"):
        try:
            os.replace(path + suffix, aside + suffix)
        except OSError:
            continue
    return aside
