"""solver.explain: why a step ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fake_steps import Builder

from inlay import tasks
from inlay.solver.explain import explain

if TYPE_CHECKING:
    from inlay.solver.vertex import Edge


def why(b: Builder, target: Edge[Any], edge: Edge[Any] | None = None) -> str:
    solver = b.solver()
    tasks.run(solver.solve([target]))
    return explain(solver, edge or target, lambda vertex: vertex.digest)


def copy(b: Builder, run: str = "run", context: str = "x", **options: Any) -> Edge[Any]:
    base = b.step(run, run, "r", b.step("base", "base", "b"))
    local = b.step(f"context {context}", "", context, digests=(f"random:{context}",))
    return b.step("copy", "copy", "c", base, local, slow=(1,), **options)


def test_changed_content() -> None:
    b = Builder()
    b.solve(copy(b))
    assert why(b, copy(b, context="y")) == "what it takes from context y is new"


def test_a_changed_step_and_what_is_made_from_it() -> None:
    b = Builder()
    b.solve(copy(b))
    edge = copy(b, run="other run")
    assert why(b, edge) == "it is made from other run, which ran"
    b.solve(copy(b))
    edge = copy(b, run="third run")
    assert why(b, edge, edge.vertex.inputs[0]) == "the step itself is new, or all that it is made from"


def test_inputs_that_never_met() -> None:
    b = Builder()
    b.solve(copy(b))
    b.solve(copy(b, run="run 2", context="y"))
    assert why(b, copy(b, context="y")) == "its inputs are known, but it never ran on all of them together"


def test_a_record_that_vanished_and_a_cache_that_was_not_wanted() -> None:
    b = Builder()
    b.solve(copy(b))
    assert why(b, copy(b, ignore_cache=True)) == "the cache was not to be used for it"
    edge = b.step("plain", "plain", "p", b.step("base", "base", "b"))
    b.solve(edge)
    b.store.broken = {"result-p"}
    assert why(b, edge) == "its cached result is gone"
