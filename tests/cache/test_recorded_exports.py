"""BuildKit's own cache exports, made again from keys alone, and again from an import of themselves."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASES: list[dict[str, Any]] = [
    json.loads(line)
    for line in gzip.decompress((ROOT / "tests/vectors/cache-exports.jsonl.gz").read_bytes()).splitlines()
]


def checker() -> Any:
    spec = importlib.util.spec_from_file_location("cache_cases", ROOT / "scripts/vectors/cache_cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECKER = checker()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_max_min_and_inline_caches_are_the_recorded_bytes(case: dict[str, Any]) -> None:
    assert list(CHECKER.problems(case)) == []
