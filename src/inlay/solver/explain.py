"""Why a step had to run: which of its inputs, or the step itself, no cache has.

Worked out after the solve from what the caches hold, keys and links, without what the solve itself added.
"""

from __future__ import annotations

from inlay.solver.keys import Link, is_random, output_key
from inlay.typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from inlay.solver.keys import KeyId
    from inlay.solver.solver import Solver
    from inlay.solver.vertex import Edge

R = TypeVar("R")

IGNORED = "ignored"
"""The cache was not to be used for the step."""
GONE = "gone"
"""Its result is in a cache, and cannot be had any more."""
BARE = "bare"
"""A cache knows the step, but has no result of it."""
APART = "apart"
"""Every input is known to the step, but not all of them together."""
NEW = "new"
"""No cache has the step, whatever it is made on."""
RAN = "ran"
"""The input had to be made."""
CONTENT = "content"
"""No cache has the step with what the input contains."""
SOURCE = "source"
"""The input is a source on which no cache has anything."""
ELSEWHERE = "elsewhere"
"""The input is in a cache, and so is the step, but not this step on this input."""


class Cause(NamedTuple):
    """One reason why nothing matched: a constant of this module, of input number `input` or, where that is
    -1, of the step as a whole. `detail` says of a result that is `GONE` what happened to it."""

    kind: str
    input: int = -1
    detail: str = ""


def explain(solver: Solver[R], edge: Edge[R]) -> list[Cause]:
    """Say why `edge`, which `solver` ran or missed, matched no record."""
    vertex = edge.vertex
    if vertex.ignore_cache:
        return [Cause(IGNORED)]
    if solver.found_keys(edge):
        lost = solver.lost(edge)
        return [Cause(GONE, detail=lost[0])] if lost else [Cause(BARE)]
    step, made = step_key(solver, edge), solver.made_keys
    causes = []
    if not solver.index.targets_of(step) - made:
        causes.append(Cause(NEW))
    for i in range(len(vertex.inputs)):
        if not solver.index.targets(_ways(solver, edge, i)) - made:
            kind = _unmatched(solver, edge, i)
            if not causes or causes[0].kind != NEW or kind in (RAN, SOURCE):
                causes.append(Cause(kind, i))
    return causes or [Cause(APART)]


def step_key(solver: Solver[R], edge: Edge[R]) -> str:
    """What links to `edge` have as their digest: the step, whatever it is made on."""
    return output_key(solver.cache_map_of(edge.vertex).digests[0], edge.output)


def steps_on(solver: Solver[R], edge: Edge[R]) -> dict[str, set[KeyId]]:
    """The step keys of all that was made of an input of `edge`, or of what it contains, before this solve,
    each with the keys that it has there."""
    made = solver.made_keys
    found: dict[str, set[KeyId]] = {}
    for i, below in enumerate(edge.vertex.inputs):
        content = solver.content_of(edge.vertex, i)
        for source in (*solver.keys_of(below), *([content] if content else [])):
            for link, target in solver.index.links_from(source):
                if link.input == i and target not in made:
                    found.setdefault(link.digest, set()).add(target)
    return found


def _ways(solver: Solver[R], edge: Edge[R], i: int) -> list[Link]:
    """The links by which input `i` could lead to a record of the step."""
    step, selector = step_key(solver, edge), solver.cache_map_of(edge.vertex).inputs[i].selector
    ways = [Link(key, i, step, selector) for key in solver.keys_of(edge.vertex.inputs[i])]
    content = solver.content_of(edge.vertex, i)
    return [*ways, Link(content, i, step)] if content else ways


def _unmatched(solver: Solver[R], edge: Edge[R], i: int) -> str:
    below = edge.vertex.inputs[i]
    if solver.content_of(edge.vertex, i):
        return CONTENT
    if not below.vertex.is_source:
        absent = below.vertex in solver.missing or solver.has_run(below)
        return RAN if absent else ELSEWHERE
    keys, made = solver.keys_of(below), solver.made_keys
    if all(map(is_random, keys)):
        return CONTENT
    known = any(target not in made for key in keys for _, target in solver.index.links_from(key))
    return ELSEWHERE if known else SOURCE
