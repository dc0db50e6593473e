"""What a file of records needs besides itself: looked for beside it, then in tests/vectors."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[2] / "tests/vectors/frontend"


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line, compressed or not."""
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
        if line.strip():
            yield json.loads(line)


def dockerfile_of(record: dict[str, Any]) -> bytes:
    """The Dockerfile of a `feature` or `fuzz` record."""
    if "dockerfile_b64" in record:
        return base64.b64decode(record["dockerfile_b64"])
    return str(record["dockerfile"]).encode()


class Surroundings:
    """The files around one file of records."""

    def __init__(self, path: Path) -> None:
        self._folders = (path.parent, TESTS)

    @cached_property
    def images(self) -> dict[str, Any]:
        """The fake registry, `images.json`."""
        path = next(folder / "images.json" for folder in self._folders if (folder / "images.json").exists())
        images: dict[str, Any] = json.loads(path.read_text())
        return images

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """The `feature` records by id."""
        paths = [
            path for folder in reversed(self._folders) for path in sorted(folder.glob("*feature*.jsonl*"))
        ]
        return {record["id"]: record for path in paths for record in read_records(path)}
