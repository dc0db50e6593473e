"""errors: what all errors of the tree have in common."""

from __future__ import annotations

import copy
import inspect
import pickle
import pkgutil
from importlib import import_module

import pytest

import inlay
from inlay.errors import InlayError, Location

WORTH = {
    "message": "it broke",
    "location": Location("Dockerfile", 3, 4),
    "hint": "RUN",
    "excerpt": ">>> RUM",
    "step": "[1/2] RUN false",
    "exit_code": 137,
    "reference": "registry/app:1",
    "status": 503,
    "digest": "sha256:" + "0" * 64,
    "unmatched": frozenset({"NAME"}),
    "vertices": (),
}
"""What an error may be made of, by the name of the parameter."""


def _tree(root: type[InlayError]) -> list[type[InlayError]]:
    return [root, *(each for child in root.__subclasses__() for each in _tree(child))]


for _module in pkgutil.walk_packages(inlay.__path__, "inlay."):
    if not _module.name.endswith("__main__"):
        import_module(_module.name)
TREE = [kind for kind in dict.fromkeys(_tree(InlayError)) if kind.__module__.startswith("inlay.")]


def _made(kind: type[InlayError]) -> InlayError:
    if "__init__" not in {name for each in kind.__mro__[: -len(Exception.__mro__)] for name in vars(each)}:
        return kind("it broke")
    words = inspect.signature(kind).parameters
    error = kind(**{name: WORTH[name] for name in words})
    for name in WORTH.keys() & vars(error).keys():
        setattr(error, name, WORTH[name])
    return error


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_in_another_process(kind: type[InlayError]) -> None:
    error = _made(kind)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert other.args == error.args
        assert {name: str(value) for name, value in vars(other).items()} == {
            name: str(value) for name, value in vars(error).items()
        }
