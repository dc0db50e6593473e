"""Recorded behaviour of BuildKit, compared by the same code as scripts/check_vectors.py."""

from __future__ import annotations

import json
import os
import shutil
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


CASES = ROOT / "tests/vectors/cache"


def test_a_case_is_compared_op_by_op_and_tree_by_tree() -> None:
    names = [name for name, _ in check_vectors.compare(CASES / "c25-scratch")]
    assert "c25-scratch [stage-1 2/5] COPY dir /d1" in names
    if os.geteuid() == 0:
        assert "c25-scratch [stage-1 2/5] COPY dir /d1, content" in names
    assert {"c25-scratch max cold", "c25-scratch inline warm"} <= set(names)


@pytest.mark.parametrize(
    ("file", "recorded", "changed"),
    [
        ("keys.json", '"selector": "sha256:8a5', '"selector": "sha256:9a5'),
        ("keys.json", '"contentDigest": "sha256:', '"contentDigest": "sha256:0'),
        ("cacheconfig.json", '\\"records\\":[', '\\"records\\":[ '),
        ("llb.json", '"raw": "', '"raw": "////'),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: trees with foreign owners")
def test_a_case_that_was_tampered_with_differs(
    tmp_path: Path, file: str, recorded: str, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = shutil.copytree(CASES / "c25-scratch", tmp_path / "c25-scratch")
    text = (case / file).read_text()
    assert recorded in text
    (case / file).write_text(text.replace(recorded, changed))
    assert check_vectors.main([str(case)]) == 1, capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: trees with foreign owners")
def test_a_tree_whose_layers_were_not_recorded_is_made_by_its_file_operation(tmp_path: Path) -> None:
    case = shutil.copytree(CASES / "c38-link-copyfrom-scratch", tmp_path / "case")
    configs = json.loads((case / "cacheconfig.json").read_text())
    config = json.loads(configs["max"]["config_raw"])
    for record in config["records"]:
        record.pop("layers", None)
    configs["max"]["config_raw"] = json.dumps(config)
    (case / "cacheconfig.json").write_text(json.dumps(configs))
    pairs = {name: pair for name, pair in check_vectors.compare(case) if name.endswith(", content")}
    assert "case [stage-1 2/3] COPY --from=s / /y, content" in pairs
    assert all(recorded == actual for recorded, actual in pairs.values()), pairs
