"""The table of layers and trees in a store's database: one row for each."""

from __future__ import annotations

from inlay import json
from inlay.digest import Digest
from inlay.errors import SolveError
from inlay.oci.descriptor import Descriptor
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from inlay.refs.ref import Layer, Ref
    from inlay.snapshot.snapshotter import LayerDir

SCHEMA = """
CREATE TABLE IF NOT EXISTS layer (
    key TEXT PRIMARY KEY,       -- the blob's digest, or the directory's id where the layer was made here
    diff_id TEXT NOT NULL,      -- empty until the layer is packed
    blob TEXT NOT NULL,         -- media type, digest and size as JSON; empty until packed
    directory TEXT NOT NULL,    -- the snapshot's id; empty until unpacked
    source TEXT NOT NULL,       -- where the blob can be fetched from when the store has it not
    base TEXT NOT NULL          -- JSON: the keys of the layers that a directory was made on
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS layer_by_diff_id ON layer (diff_id);
CREATE TABLE IF NOT EXISTS tree (
    id TEXT PRIMARY KEY,        -- digest of the other columns
    parent TEXT NOT NULL,       -- the tree that the layer lies on; empty: none
    layer TEXT NOT NULL,
    created TEXT NOT NULL,
    description TEXT NOT NULL
) WITHOUT ROWID;
"""


class LayerRow(NamedTuple):
    """One layer on disk; see `SCHEMA`."""

    key: str
    diff_id: str
    blob: str
    directory: str
    source: str
    base: str

    def descriptor(self) -> Descriptor | None:
        if not self.blob:
            return None
        media_type, digest, size = json.loads(self.blob)
        return Descriptor(media_type, Digest.parse(digest), size)


class TreeRow(NamedTuple):
    """One tree on disk, as its topmost layer on another tree; see `SCHEMA`."""

    id: str
    parent: str
    layer: str
    created: str
    description: str


class LayerTable:
    """Rows in and out. What cannot be read or written raises `SolveError`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self._named: dict[tuple[str, str, str, str], str] = {}
        """Trees that were named in this build: a row's other columns to its id."""

    def layer(self, key: str) -> LayerRow | None:
        rows = self._rows("SELECT * FROM layer WHERE key = ?", key)
        return LayerRow(*rows[0]) if rows else None

    def save(self, layer: Layer) -> None:
        blob = json.dumps([layer.blob.media_type, layer.blob.digest, layer.blob.size]) if layer.blob else ""
        row = LayerRow(
            layer.key,
            layer.diff_id or "",
            blob,
            layer.directory or "",
            layer.source.location if layer.source is not None else "",
            json.dumps(layer.base),
        )
        self._change("INSERT OR REPLACE INTO layer VALUES (?, ?, ?, ?, ?, ?)", [row])

    def save_directory(self, layer: Layer) -> None:
        """Note which directory a layer is that has a row already."""
        self._change("UPDATE layer SET directory = ? WHERE key = ?", [(layer.directory or "", layer.key)])

    def directories(self, diff_id: Digest) -> list[LayerDir]:
        """The directories of layers with this content."""
        rows = self._rows("SELECT directory FROM layer WHERE diff_id = ? AND directory != ''", diff_id)
        return [directory for (directory,) in rows]

    def name(self, ref: Ref) -> str:
        """Name a tree so that a later build finds its rows. A name does not grow with the tree's height."""
        name, rows = "", []
        for layer in ref.layers:
            fields = (name, layer.key, layer.created, layer.description)
            known = self._named.get(fields)
            if known is None:
                known = self._named[fields] = Digest.of("\0".join(fields)).hex[:32]
                rows.append(TreeRow(known, *fields))
            name = known
        if rows:
            self._change("INSERT OR IGNORE INTO tree VALUES (?, ?, ?, ?, ?)", rows)
        return name

    def tree(self, name: str) -> TreeRow | None:
        rows = self._rows("SELECT * FROM tree WHERE id = ?", name)
        return TreeRow(*rows[0]) if rows else None

    def _rows(self, statement: str, value: str) -> list[tuple[str, ...]]:
        try:
            return self.database.execute(statement, (value,)).fetchall()
        except _database_error() as error:
            raise SolveError(
                f"the store's table of layers cannot be read ({error}); delete its layers.db, which is made anew, "
                "or choose another folder with --root"
            ) from error

    def _change(self, statement: str, rows: Sequence[tuple[str, ...]]) -> None:
        """Write `rows`, all or none of them."""
        try:
            self.database.execute("BEGIN IMMEDIATE")
            self.database.executemany(statement, rows)
            self.database.execute("COMMIT")
        except _database_error() as error:
            if self.database.in_transaction:
                self.database.rollback()
            raise SolveError(
                f"the store's table of layers cannot be written ({error}); free some space there, or choose "
                "another folder with --root"
            ) from error


def _database_error() -> type[Exception]:
    from _sqlite3 import DatabaseError  # only whoever has a database needs it

    return DatabaseError
