"""solver.explain: why a step ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fake_steps import Builder, sha

from inlay import tasks
from inlay.solver.explain import (
    APART,
    BARE,
    CONTENT,
    ELSEWHERE,
    GONE,
    IGNORED,
    NEW,
    RAN,
    SOURCE,
    Cause,
    explain,
    steps_on,
)
from inlay.solver.keys import CONTENT as CONTENT_OUTPUT
from inlay.solver.keys import RecordNode, output_key
from inlay.solver.solver import NotCached

if TYPE_CHECKING:
    from inlay.solver.vertex import Edge


def why(b: Builder, target: Edge[Any], edge: Edge[Any] | None = None, **options: Any) -> list[Cause]:
    solver = b.solver(**options)
    try:
        tasks.run(solver.solve([target]))
    except NotCached:
        pass
    return explain(solver, edge or target)


def copy(b: Builder, run: str = "run", context: str = "x", base: str = "base", **options: Any) -> Edge[Any]:
    below = b.step(run, run, "r", b.step(base, base, "b"))
    local = b.step(f"context {context}", "", context, digests=(f"random:{context}",))
    return b.step("copy", "copy", "c", below, local, slow=(1,), **options)


@pytest.mark.parametrize("options", [{}, {"require_cached": True}])
def test_content_that_has_changed_is_the_cause(options: dict[str, Any]) -> None:
    b = Builder()
    b.solve(copy(b))
    assert why(b, copy(b, context="y"), **options) == [Cause(CONTENT, 1)]


@pytest.mark.parametrize("options", [{}, {"require_cached": True}])
def test_a_changed_step_and_what_is_made_from_it(options: dict[str, Any]) -> None:
    b = Builder()
    b.solve(copy(b))
    edge = copy(b, run="other run")
    assert why(b, edge, **options) == [Cause(RAN, 0)]
    b.solve(edge)
    edge = copy(b, run="third run")
    assert why(b, edge, edge.vertex.inputs[0], **options) == [Cause(NEW)]


def test_a_changed_step_and_changed_content() -> None:
    b = Builder()
    b.solve(copy(b))
    assert why(b, copy(b, run="other run", context="y")) == [Cause(RAN, 0), Cause(CONTENT, 1)]


def test_a_source_that_no_cache_knows() -> None:
    b = Builder()
    b.solve(copy(b))
    edge = copy(b, base="newer base")
    assert why(b, edge, edge.vertex.inputs[0]) == [Cause(SOURCE, 0)]


def test_nothing_at_all_is_known() -> None:
    b = Builder()
    edge = copy(b)
    assert why(b, edge, edge.vertex.inputs[0]) == [Cause(NEW), Cause(SOURCE, 0)]
    b = Builder()
    assert why(b, copy(b)) == [Cause(NEW), Cause(RAN, 0)]


def test_a_new_step_beside_a_cached_one_does_not_make_their_source_unknown() -> None:
    b = Builder()
    old = b.step("old", "old", "o", b.step("base", "base", "b"))
    b.solve(old)
    new = b.step("new", "new", "n", b.step("base", "base", "b"))
    both = b.step("both", "both", "2", old, new)
    assert why(b, both, new) == [Cause(NEW)]


def test_a_known_step_on_another_known_input() -> None:
    b = Builder()
    b.solve(b.step("s", "s", "1", b.step("base", "base", "b")))
    b.solve(b.step("t", "t", "1", b.step("other", "other", "o")))
    assert why(b, b.step("s", "s", "1", b.step("other", "other", "o"))) == [Cause(ELSEWHERE, 0)]


def test_inputs_that_never_met() -> None:
    b = Builder()
    b.solve(copy(b))
    b.solve(copy(b, run="run 2", context="y"))
    assert why(b, copy(b, context="y")) == [Cause(APART)]


def test_a_record_that_vanished_and_a_cache_that_was_not_wanted() -> None:
    b = Builder()
    b.solve(copy(b))
    assert why(b, copy(b, ignore_cache=True)) == [Cause(IGNORED)]
    edge = b.step("plain", "plain", "p", b.step("base", "base", "b"))
    b.solve(edge)
    b.store.broken = {"result-p"}
    assert why(b, edge) == [Cause(GONE, detail="result-p is gone")]


def test_a_cache_that_knows_the_step_without_a_result() -> None:
    b = Builder()
    base, step = (output_key(sha("seed", seed), 0) for seed in ("base", "plain"))
    b.index.ingest([RecordNode(base), RecordNode(step, ((("", 0),),))])
    assert why(b, b.step("plain", "plain", "p", b.step("base", "base", "b"))) == [Cause(BARE)]


def test_what_was_made_on_the_same_input_before() -> None:
    b = Builder()
    base = b.step("base", "base", "b")
    b.solve(b.step("old", "old", "o", base), b.step("older", "older", "o", base))
    edge = b.step("new", "new", "n", b.step("base", "base", "b"))
    solver = b.solver()
    tasks.run(solver.solve([edge]))
    assert steps_on(solver, edge).keys() == {output_key(sha("seed", seed), 0) for seed in ("old", "older")}


def test_imported_content_counts() -> None:
    b = Builder()
    content = output_key(tasks.run(_content("x")), CONTENT_OUTPUT)
    step, base = output_key(sha("seed", "copy"), 0), output_key(sha("seed", "base"), 0)
    b.index.ingest([RecordNode(base), RecordNode(content), RecordNode(step, ((("", 0),), (("", 1),)))])
    local = b.step("context", "", "x", digests=("random:x",))
    new_base = b.step("newer base", "newer base", "n")
    assert why(b, b.step("copy", "copy", "c", new_base, local, slow=(1,))) == [Cause(SOURCE, 0)]


async def _content(value: str) -> str:
    return sha("content", value)
