"""Why a step was not found in the cache, in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.solver.solver import Solver
    from inlay.solver.vertex import Edge, Vertex

R = TypeVar("R")


def explain(solver: Solver[R], edge: Edge[R], name_of: Callable[[Vertex[R]], str]) -> str:
    """Say why `edge`, which `solver` had to run, matched no record. `name_of` gives vertices' names."""
    vertex = edge.vertex
    if vertex.ignore_cache:
        return "the cache was not to be used for it"
    matched = solver.search_of(edge)
    if matched is None:
        return "its cached result is gone"
    if all(matched):
        return "its inputs are known, but it never ran on all of them together"
    reasons = []
    for i, below in enumerate(vertex.inputs):
        name = name_of(below.vertex)
        if matched[i]:
            continue
        if (
            below.vertex.inputs
            and solver.has_run(below)
            and not solver.cache_map_of(vertex).inputs[i].content_digest
        ):
            reasons.append(f"it is made from {name}, which ran")
        elif any(matched):
            reasons.append(f"what it takes from {name} is new")
    return "; ".join(reasons) or "the step itself is new, or all that it is made from"
