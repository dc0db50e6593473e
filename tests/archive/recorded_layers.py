"""Layers that BuildKit made (tests/vectors/layers/README.md)."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

_FILE = Path(__file__).parent.parent / "vectors" / "layers" / "layers.jsonl.gz"


def recorded_layers() -> list[bytes]:
    with gzip.open(_FILE, "rt") as lines:
        return [base64.b64decode(json.loads(line)["tar"]) for line in lines]
