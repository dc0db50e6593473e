"""The table of layers: what is told of a file that is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inlay.digest import Digest
from inlay.errors import SolveError
from inlay.refs.ref import Layer, Ref
from inlay.refs.table import SCHEMA, LayerTable
from inlay.system.sqlite import open_tables

if TYPE_CHECKING:
    from pathlib import Path


def test_a_damaged_table_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "layers.db"
    database = open_tables(str(path), SCHEMA)
    name = LayerTable(database).name(Ref((Layer("key"),)))
    database.close()
    page = int.from_bytes(path.read_bytes()[16:18], "big")
    with path.open("r+b") as file:  # the first page, which says what tables there are, is whole
        file.seek(page)
        file.write(b"\xff" * (path.stat().st_size - page))
    database = open_tables(str(path), SCHEMA)
    table = LayerTable(database)
    for read in (
        lambda: table.layer("key"),
        lambda: table.tree(name),
        lambda: table.directories(Digest.of(b"")),
    ):
        with pytest.raises(SolveError, match=r"cannot be read \(.*malformed\); delete its layers.db"):
            read()
    database.close()
