"""Content digests that BuildKit computed, of the trees and contexts that it had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from inlay.llb.keys import WHOLE_TREE, ContentSelector
from inlay.trees.contenthash import content_digest
from recorded_trees import RecordedCase, all_cases, needs_root

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WITHOUT_TREES = {"c09-add-http", "c10-add-git"}
"""Their trees came over the network."""


def _selectors(facts: dict[str, Any]) -> Sequence[ContentSelector]:
    return [_selector(each) for each in facts["selectors"]] or WHOLE_TREE


def _selector(facts: dict[str, Any]) -> ContentSelector:
    return ContentSelector(
        facts["path"],
        follow_links=facts.get("follow", False),
        wildcard=facts.get("wildcard", False),
        include_patterns=tuple(facts.get("include", ())),
        exclude_patterns=tuple(facts.get("exclude", ())),
        required_paths=tuple(facts.get("required", ())),
    )


@needs_root
@pytest.mark.parametrize("name", [name for name, case in all_cases().items() if case["content"]])
def test_content_digests_are_those_that_buildkit_recorded(name: str, tmp_path: Path) -> None:
    case = RecordedCase(name, tmp_path)
    unread = []
    for facts in case.facts["content"]:
        tree = case.open(facts["input"])
        if tree is None:
            unread.append(facts["step"])
            continue
        with tree:
            assert content_digest(tree, _selectors(facts)) == facts["digest"], facts["step"]
    assert not unread or name in WITHOUT_TREES
