"""Calls that only look at a Dockerfile: they need no root, no network, no executor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from running import run_inlay

if TYPE_CHECKING:
    from pathlib import Path

DOCKERFILE = "FROM scratch AS one\nCOPY a /a\nFrom scratch\nARG WHO=me\nCMD echo hi\n"


def test_check_names_the_rule_and_fails(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    done = run_inlay("build", "--check", "--root", str(tmp_path / "s"), str(tmp_path))
    assert done.code == 1
    assert "ConsistentInstructionCasing" in done.out
    assert "Dockerfile:3" in done.out


def test_check_tells_what_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("From scratch\nCOPPY a /a\n")
    done = run_inlay("build", "--check", "--root", str(tmp_path / "s"), str(tmp_path))
    assert done.code == 1
    assert ">>> COPPY a /a" in done.out
    assert done.out.endswith(
        "ERROR: dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)\n"
    )


def test_a_clean_dockerfile_passes(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY a /a\n")
    done = run_inlay("build", "--call", "check", "--root", str(tmp_path / "s"), str(tmp_path))
    assert (done.code, done.out) == (0, "Check complete, no warnings found.\n")


def test_targets_and_outline_as_json(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    root = ("--root", str(tmp_path / "s"))
    targets = run_inlay("build", "--call", "targets,format=json", *root, str(tmp_path))
    assert next(target.get("name") for target in json.loads(targets.out)["targets"]) == "one"
    outline = run_inlay("build", "--call", "outline,format=json", *root, str(tmp_path))
    assert json.loads(outline.out)["args"][0]["name"] == "WHO"


def test_debug_llb_prints_the_ops(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY a /a\n")
    done = run_inlay("debug", "llb", "--root", str(tmp_path / "s"), str(tmp_path))
    assert done.code == 0, done.err
    assert "local://context" in done.out


def test_an_unknown_call_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    assert run_inlay("build", "--call", "dance", str(tmp_path)).code == 2
