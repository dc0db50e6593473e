"""Recorded behaviour of BuildKit, compared by the same code as scripts/check_vectors.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import check_vectors  # noqa: E402


@pytest.mark.parametrize("path", list(check_vectors.find(ROOT / "tests/vectors")), ids=lambda path: path.name)
def test_recorded_behaviour_is_reproduced(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_vectors.main([str(path)]) == 0, capsys.readouterr().out


def test_a_difference_is_shown_by_its_place_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = '{"in": {"word": "alpine"}, "name": "x", "named": "x", "tagged": "x", "familiar": "alpine"}'
    (tmp_path / "unit-ref-more.jsonl").write_text(record)
    assert check_vectors.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "0 of 1 equal" in out
    assert "line 1 .name\n    recorded 'x'\n    actual   'docker.io/library/alpine'" in out


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert check_vectors.main([str(tmp_path)]) == 2
