"""The two relations of the cache on disk: links between keys, and records of results.

    link(source, input, digest, selector, target)     record(key, result, created)

One SQLite file in WAL mode; several processes may use it at once. Each change is one transaction, and
the file is whole after a crash; the last changes before a power cut may be missing. Nothing that goes
wrong with the file fails a build: one that is broken or of another version is moved aside, one that
cannot be written is done without, and `warn` is told.
"""

from __future__ import annotations

from inlay.solver.keys import CacheRecord, Link
from inlay.system.sqlite import move_aside, open_tables
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from inlay.solver.keys import KeyId

VERSION = 1
"""`PRAGMA user_version` of files of this layout."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS link(
    source TEXT NOT NULL, input INTEGER NOT NULL, digest TEXT NOT NULL, selector TEXT NOT NULL,
    target TEXT NOT NULL, PRIMARY KEY (source, input, digest, selector, target)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS link_target ON link(target);
CREATE TABLE IF NOT EXISTS record(
    number INTEGER PRIMARY KEY, key TEXT NOT NULL, result TEXT NOT NULL, created TEXT NOT NULL,
    UNIQUE (key, result)
);
CREATE INDEX IF NOT EXISTS record_result ON record(result);
PRAGMA user_version = 1;
"""

_TARGETS = "SELECT target FROM link WHERE source = ? AND input = ? AND digest = ? AND selector = ? LIMIT ?"
_LEADS = "SELECT 1 FROM link WHERE source = ? AND input = ? AND digest = ? AND selector = ? AND target = ?"
_LINKS_TO = "SELECT source, input, digest, selector FROM link WHERE target = ?"
_LINKS_FROM = "SELECT source, input, digest, selector, target FROM link WHERE source = ?"
_TARGETS_OF = "SELECT DISTINCT target FROM link WHERE digest = ?"
_RECORDS = "SELECT result, key, created FROM record WHERE key = ? ORDER BY number DESC"
_ADD_LINK = "INSERT OR IGNORE INTO link VALUES (?, ?, ?, ?, ?)"
_DROP_LINK = "DELETE FROM link WHERE source = ? AND input = ? AND digest = ? AND selector = ? AND target = ?"
_ADD_RECORD = "INSERT OR REPLACE INTO record(key, result, created) VALUES (?, ?, ?)"
_DROP_RECORD = "DELETE FROM record WHERE key = ? AND result = ?"
_DROP_RESULT = "DELETE FROM record WHERE result = ?"
_DROP_DEAD_ENDS = """
DELETE FROM link WHERE NOT EXISTS (SELECT 1 FROM record WHERE record.key = link.target)
                   AND NOT EXISTS (SELECT 1 FROM link AS further WHERE further.source = link.target)
"""


class Database:
    """The relations in the file `path`, which is made when it does not exist."""

    def __init__(self, path: str, *, warn: Callable[[str], None]) -> None:
        self._path = path
        self._empty = False
        self._warn = warn
        self._connection = self._open()
        self._empty = self._is_empty()
        self.was_empty = self._empty
        """Whether there was nothing in it when it was opened."""

    def targets(self, link: Link, limit: int = -1) -> list[KeyId]:
        return [row[0] for row in self._read(_TARGETS, (*link, limit))]

    def leads(self, link: Link, key: KeyId) -> bool:
        return bool(self._read(_LEADS, (*link, key)))

    def links_to(self, key: KeyId) -> list[Link]:
        return [Link(*row) for row in self._read(_LINKS_TO, (key,))]

    def links_from(self, key: KeyId) -> list[tuple[Link, KeyId]]:
        return [(Link(*row[:4]), row[4]) for row in self._read(_LINKS_FROM, (key,))]

    def targets_of(self, digest: str) -> list[KeyId]:
        return [row[0] for row in self._read(_TARGETS_OF, (digest,))]

    def records(self, key: KeyId) -> list[CacheRecord]:
        """The records of `key`, the last added first."""
        return [CacheRecord(*row) for row in self._read(_RECORDS, (key,))]

    def results(self) -> set[str]:
        """The ids of all results that a record names."""
        return {row[0] for row in self._read("SELECT DISTINCT result FROM record", ())}

    def add(self, links: Iterable[tuple[Link, KeyId]], records: Iterable[CacheRecord] = ()) -> None:
        """Add `links`, each with its target, and `records`, which replace ones of equal key and result."""
        self._write(
            (_ADD_LINK, sorted((*link, target) for link, target in links)),
            (_ADD_RECORD, [(record.key, record.id, record.created) for record in records]),
        )

    def drop_links(self, links: Iterable[tuple[Link, KeyId]]) -> None:
        self._write((_DROP_LINK, [(*link, target) for link, target in links]))

    def drop_record(self, record: CacheRecord) -> None:
        self._write((_DROP_RECORD, [(record.key, record.id)]))

    def drop_results(self, results: Iterable[str]) -> None:
        """Forget all records of `results`, and then every link that no longer leads to a record."""
        self._write((_DROP_RESULT, [(result,) for result in results]))
        while self._write((_DROP_DEAD_ENDS, [()])):
            continue

    def count(self) -> int:
        """How many records there are."""
        rows = self._read("SELECT count(*) FROM record", ())
        return int(rows[0][0]) if rows else 0

    def compact(self) -> None:
        """Give the room of what was dropped back to the disk."""
        try:
            if self._connection is not None:
                self._connection.execute("VACUUM")
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- what can go wrong with the file ---------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection | None:
        import _sqlite3 as sqlite3

        for attempt in (1, 2):
            try:
                connection = self._connect()
            except sqlite3.OperationalError as error:
                self._warn(
                    f"the cache index {self._path} cannot be opened ({error}); this build does without it"
                )
                return None
            except sqlite3.DatabaseError as error:
                self._move_aside(str(error))
                continue
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == VERSION or attempt == 2:
                return connection
            connection.close()
            self._move_aside(f"it is of version {version}, and this inlay knows version {VERSION}")
        return None

    def _connect(self) -> sqlite3.Connection:
        connection = open_tables(self._path, _SCHEMA)
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:
                connection.execute(_TARGETS, ("", 0, "", "", 0))
                connection.execute(_RECORDS, ("",))
        except BaseException:
            connection.close()
            raise
        return connection

    def _move_aside(self, why: str) -> None:
        aside = move_aside(self._path)
        self._warn(f"the cache index {self._path} cannot be used ({why}); it was moved to {aside}")

    def _is_empty(self) -> bool:
        """Whether there is nothing to ask for; what other processes add from now on can wait for the next build."""
        return not self._read(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM link) OR EXISTS (SELECT 1 FROM record)", ()
        )

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        if self._connection is None or self._empty:
            return []
        try:
            return self._connection.execute(query, values).fetchall()
        except Exception as error:
            self._give_up(error)
            return []

    def _write(self, *changes: tuple[str, list[Any]]) -> int:
        """Make `changes` in one transaction; return how many rows they touched."""
        if self._connection is None or not any(rows for _, rows in changes):
            return 0
        self._empty = False
        before = self._connection.total_changes
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, rows in changes:
                self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
            return self._connection.total_changes - before
        except Exception as error:
            self._give_up(error)
            return 0

    def _give_up(self, error: Exception) -> None:
        """Do without the file for the rest of the build. Raises what is no fault of the file."""
        import _sqlite3 as sqlite3

        if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.ProgrammingError):
            raise error
        self.close()
        if type(error) is sqlite3.DatabaseError:  # what a malformed file is; all else has a class of its own
            self._move_aside(str(error))
        else:
            self._warn(f"the cache index {self._path} failed ({error}); this build goes on without it")
