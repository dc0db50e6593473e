"""File ops that BuildKit did: ours leave the same trees behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from recorded_trees import RecordedCase, all_cases, describe_tree, needs_root

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT_RESULTS = {"c09-add-http", "c10-add-git", "c22-named-context", "c26-copy-image"}
"""Their sources came over the network, or their layers are too big to be kept here."""


@needs_root
@pytest.mark.parametrize("name", [name for name, case in all_cases().items() if case["file_ops"]])
def test_file_ops_leave_the_recorded_trees(name: str, tmp_path: Path) -> None:
    case = RecordedCase(name, tmp_path)
    unknown = []
    for vertex in case.files.values():
        expected = [describe_tree(folder) for folder in case.results(vertex.digest)]
        made = case.make(vertex.digest)
        if made is None or not expected:
            unknown.append(vertex.name)
            continue
        assert describe_tree(made) in expected, vertex.name
    internal = [step for step in unknown if step.startswith("[internal]")]
    assert unknown == internal or name in WITHOUT_RESULTS
