"""BuildKit's own cache exports, made again from keys alone, and again from an import of themselves."""

from __future__ import annotations

import gzip
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASES: list[dict[str, Any]] = [
    json.loads(line)
    for line in gzip.decompress((ROOT / "tests/vectors/cache-exports.jsonl.gz").read_bytes()).splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_max_min_and_inline_caches_are_the_recorded_bytes(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    cases = importlib.import_module("vectors.cache_cases")
    for name, (recorded, actual) in cases.compare(case):
        assert actual == recorded, name
