"""Named tuples are those of `typing`, but for what it costs to define them."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from typing import Any, Generic, TypeVar

import pytest

from inlay.typing import NamedTuple

T = TypeVar("T")


class Point(NamedTuple):
    """A place."""

    x: int
    y: int = 2
    label: str = ""

    @property
    def sum(self) -> int:
        return self.x + self.y


class Typed(typing.NamedTuple):
    x: int
    y: int = 2
    label: str = ""


class Box(NamedTuple, Generic[T]):
    content: T


class Empty(NamedTuple):
    pass


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {}), ((1, 3), {}), ((), {"x": 1, "label": "a"}), ((1,), {"y": 5}), ((1, 2, "b"), {})],
)
def test_values_are_those_of_typing(args: Any, kwargs: Any) -> None:
    ours, theirs = Point(*args, **kwargs), Typed(*args, **kwargs)
    assert ours == theirs
    assert hash(ours) == hash(theirs)
    assert (ours.x, ours.y, ours.label) == (theirs.x, theirs.y, theirs.label)
    assert ours._replace(y=9) == theirs._replace(y=9)
    assert ours._asdict() == theirs._asdict()
    assert repr(ours) == repr(theirs).replace("Typed", "Point")
    assert inspect.signature(Point).parameters.keys() == inspect.signature(Typed).parameters.keys()


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, "", 4), {}), ((1,), {"z": 1}), ((1,), {"x": 1})]
)
def test_wrong_arguments_are_refused(args: Any, kwargs: Any) -> None:
    for cls in (Point, Typed):
        with pytest.raises(TypeError):
            cls(*args, **kwargs)


def test_an_unknown_field_cannot_be_replaced() -> None:
    with pytest.raises(TypeError, match="Point has no field z"):
        Point(1)._replace(z=1)  # type: ignore[call-arg]


def test_methods_generics_copies_and_patterns_work() -> None:
    assert Point(1).sum == 3
    assert Box(5)._replace(content=6).content == 6
    assert pickle.loads(pickle.dumps(Point(1))) == Point(1)
    assert copy.deepcopy(Point(1, 2, "c")) == Point(1, 2, "c")
    assert Empty() == ()
    match Point(1, 7):
        case Point(x, y):
            assert (x, y) == (1, 7)


def test_instances_are_as_small_as_tuples() -> None:
    assert not hasattr(Point(1), "__dict__")
    with pytest.raises(AttributeError):
        Point(1).x = 5  # type: ignore[misc]
