"""The how-to's examples run, one after the other, and the public names are what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import inlay.dockerfile

HOW_TO = Path(__file__).parents[2] / "docs/how-to/use-the-dockerfile-frontend.md"


def test_the_examples_run() -> None:
    text = HOW_TO.read_text()
    names: dict[str, object] = {}
    for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        first_line = text.count("\n", 0, match.start(1))
        exec(compile("\n" * first_line + match[1], str(HOW_TO), "exec"), names)


def test_every_public_name_is_there_and_none_is_hidden_by_a_module() -> None:
    for name in inlay.dockerfile.__all__:
        found = getattr(inlay.dockerfile, name)
        assert callable(found)
        assert found.__name__ == name
    assert inlay.dockerfile.__all__ == sorted(inlay.dockerfile.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = inlay.dockerfile.nothing  # type: ignore[attr-defined]
