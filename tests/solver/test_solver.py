"""solver: situations (several after BuildKit's solver/scheduler_test.go, by its names) and properties."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from fake_steps import Builder, sha

from inlay import tasks
from inlay.errors import SolveError
from inlay.solver.keys import CacheInput, CacheMap
from inlay.solver.solver import NotCached
from inlay.solver.vertex import Edge


def test_a_step_is_found_by_its_digest() -> None:
    b = Builder()
    assert b.solve(b.step("v0", "s0", "r0")) == "r0"
    assert b.solve(b.step("v1", "s1", "r1")) == "r1"
    assert b.solve(b.step("v2", "s0", "other")) == "r0"
    assert b.runs == []


def test_optimized_cache_access() -> None:
    b = Builder()
    b.solve(b.step("v0", "s0", "r0", b.step("v1", "s1", "r1"), b.step("v2", "s2", "r2"), slow=(1,)))
    assert b.store.loads == 0
    again = b.step("v0", "s0", "no", b.step("v1", "s1", "no"), b.step("v2c", "s2c", "r2"), slow=(1,))
    assert b.solve(again) == "r0"
    assert b.runs == ["v2c"]
    assert b.store.loads == 1


def test_optimized_cache_access_2() -> None:
    b = Builder()
    b.solve(b.step("v0", "s0", "r0", b.step("v1", "s1", "r1"), b.step("v2", "s2", "r2"), slow=(0, 1)))
    again = b.step("v0", "s0", "no", b.step("v1", "s1", "r1"), b.step("v2c", "s2c", "r2"), slow=(0, 1))
    assert b.solve(again) == "r0"
    assert b.runs == ["v2c"]
    assert b.store.loads == 1, "v1 is neither loaded nor run"
    again = b.step("v0", "s0", "no", b.step("v1", "s1c2", "r1"), b.step("v2c", "s2c2", "r2"), slow=(0, 1))
    assert b.solve(again) == "r0"
    assert b.runs == ["v1", "v2c"]
    assert b.store.loads == 1


def test_a_step_on_equal_content_is_found() -> None:
    b = Builder()
    b.solve(b.step("v0", "s0", "r0", b.step("v1", "s1", "r1"), slow=(0,)))
    assert b.solve(b.step("v2", "s0", "not-cached", b.step("v3", "s3", "r1"), slow=(0,))) == "r0"


def test_slow_key_links_definition_key() -> None:
    b = Builder()
    b.solve(b.step("v0", "s0", "r0", b.step("v1", "s1", "r1"), slow=(0,)))
    again = b.step("v2", "s0", "no", b.step("v3", "s3", "r1"), slow=(0,))
    b.solve(again)
    assert b.runs == ["v3"]
    b.solve(again)
    assert b.runs == [], "the second time by definition alone"
    assert b.store.loads == 1


def test_slow_cache_avoid_access() -> None:
    b = Builder()
    inner = b.step("v1", "s1", "r1", b.step("v2", "s2", "r2"))
    edge = b.step("v0", "s0", "r0", inner, selectors={0: "sel"}, slow=(0,))
    b.solve(edge)
    assert b.store.loads == 0
    assert b.solve(edge) == "r0"
    assert b.runs == []
    assert b.store.loads == 1
    assert len(b.log) == 3


def test_slow_cache_avoid_load_on_cache() -> None:
    b = Builder()

    def graph(seed: str) -> Edge[Any]:
        v1 = b.step("v1", "s1", "r1", b.step("v3", seed, "r3"), slow=(0,))
        return b.step("vm", "sm", "rm", b.step("v0", "s0", "r0", v1, b.step("v2", "s2", "r2"), slow=(1,)))

    b.solve(graph("s3"))
    assert b.store.loads == 0
    assert b.solve(graph("s3-new")) == "rm"
    assert b.runs == ["v3"]
    assert b.store.loads == 1
    assert sum(what == "map" for what, _ in b.log) == 5


def test_a_selector_is_part_of_the_key() -> None:
    b = Builder()

    def graph(selector: str, value: str) -> Edge[Any]:
        return b.step("v0", "s0", value, b.step("v1", "s1", "r1"), selectors={0: selector})

    b.solve(graph("sel0", "r0"))
    assert b.solve(graph("sel0", "no")) == "r0"
    assert b.runs == []
    assert b.store.loads == 1
    assert b.solve(graph("sel1", "r0-1")) == "r0-1"
    assert b.runs == ["v0"]
    assert b.store.loads == 1


def test_cache_slow_with_selector() -> None:
    b = Builder()

    def graph(selector: str, value: str) -> Edge[Any]:
        return b.step("v0", "s0", value, b.step("v1", "s1", "r1"), selectors={0: selector}, slow=(0,))

    b.solve(graph("sel0", "r0"))
    assert b.solve(graph("sel1", "no")) == "r0"
    assert b.runs == []
    assert b.store.loads == 2


def test_a_step_that_ignores_the_cache_runs_again() -> None:
    b = Builder()

    def graph(top: bool, below: bool, suffix: str) -> Edge[Any]:
        inner = b.step("v1", "s1", "r1" + suffix, ignore_cache=below)
        return b.step("v0", "s0", "r0" + suffix, inner, ignore_cache=top)

    b.solve(graph(False, False, ""))
    assert b.solve(graph(True, True, "-1")) == "r0-1"
    assert b.runs == ["v0", "v1"]
    assert b.solve(graph(False, True, "-2")) == "r0-2"
    assert b.runs == ["v0", "v1"], "an ignored input re-evaluates what is made from it"


def test_merged_edges_run_once_and_load_error() -> None:
    b = Builder()

    def const(n: int, name: str) -> Edge[Any]:
        return b.step(name, f"const{n}", n)

    def add(n: int, name: str, *inputs: Edge[Any]) -> Edge[Any]:
        return b.step(name, f"sum{n}-{len(inputs)}", None, *inputs, fn=lambda values: n + sum(values))

    def graph() -> Edge[Any]:
        middle = add(0, "mid", add(2, "a", const(2, "c2")), const(0, "c0"))
        return add(3, "top", middle, add(2, "b", const(2, "c2b")))

    assert b.solve(graph()) == 11
    assert len(b.runs) == 5
    assert b.store.loads == 0
    assert b.solve(graph()) == 11
    assert b.runs == []
    assert b.store.loads == 1
    b.store.broken = None
    assert b.solve(graph()) == 11
    assert len(b.runs) == 5


def test_second_phase_digests_matched_inputs_too() -> None:
    b = Builder()

    def graph(x: str, y: str, x_value: str, y_value: str, value: str) -> Edge[Any]:
        return b.step("v0", "s0", value, b.step(x, x, x_value), b.step(y, y, y_value), slow=(0, 1))

    b.solve(graph("a1", "b1", "X", "P", "T1"))
    b.solve(graph("a2", "b2", "X", "Q", "T2"))
    assert b.solve(graph("a1", "b3", "X", "Q", "no")) == "T2"
    assert b.runs == ["b3"]


def test_ignore_cache_is_not_undone_by_content() -> None:
    b = Builder()

    def graph(ignore: bool, value: str) -> Edge[Any]:
        return b.step("v0", "s0", value, b.step("v1", "s1", "r1"), slow=(0,), ignore_cache=ignore)

    b.solve(graph(False, "a"))
    assert b.solve(graph(True, "b")) == "b"
    assert b.runs == ["v0"]


def test_equal_content_runs_once() -> None:
    b = Builder()

    def middle(name: str, source: str) -> Edge[Any]:
        return b.step(name, "s1", "m", b.step(source, source, "same", delay=0.01), slow=(0,), delay=0.03)

    assert b.solve(b.step("top", "t", "ok", middle("x", "p"), middle("y", "q"))) == "ok"
    assert b.runs in (["p", "q", "top", "x"], ["p", "q", "top", "y"])


def test_pruned_intermediate_record_still_matches() -> None:
    b = Builder()
    edge = b.step("v0", "s0", "r0", b.step("v1", "s1", "r1", b.step("v2", "s2", "r2")))
    b.solve(edge)
    b.store.broken = {"result-r1", "result-r2"}
    assert b.solve(edge) == "r0"
    assert b.runs == []


def test_cold_inputs_run_at_the_same_time() -> None:
    b = Builder()
    at_once = threading.Barrier(8)
    inputs = [b.step(f"i{n}", f"i{n}", n, meets=at_once) for n in range(8)]
    assert b.solve(b.step("top", "top", 1, *inputs, slow=tuple(range(4)))) == 1


def test_stages_that_both_must_run_run_at_the_same_time() -> None:
    b = Builder()
    base = b.step("base", "base", "b")
    at_once = threading.Barrier(4)
    stages = [b.step(f"stage{n}", f"stage{n}", n, base, meets=at_once) for n in range(4)]
    top = b.step("top", "top", "t", b.step("root", "root", "r", base))
    for n, stage in enumerate(stages):
        top = b.step(f"copy{n}", f"copy{n}", n, top, stage, slow=(1,))
    assert b.solve(top) == 3


def test_an_error_ends_what_runs_beside_it() -> None:
    def fail(_: object) -> object:
        raise RuntimeError("boom")

    b = Builder()
    slow = b.step("late", "late", 1, b.step("slow", "slow", 1, delay=0.1))
    with pytest.raises(RuntimeError, match="boom"):
        b.solve(b.step("t", "t", 0, slow, b.step("bad", "bad", 2, fn=fail)))
    assert "late" not in b.runs


def test_content_key_of_an_input_spares_digesting_what_is_made_from_it() -> None:
    b = Builder()

    def graph(seed: str) -> Edge[Any]:
        return b.step(
            "v0", "s0", "r0", b.step("v1", "s1", "r1", b.step("v2", seed, "r2"), slow=(0,)), slow=(0,)
        )

    b.solve(graph("s2"))
    assert b.solve(graph("s2-new")) == "r0"
    assert b.runs == ["v2"]
    assert b.store.loads == 1, "v1 is found by its content key, so it is neither loaded nor digested"


def test_ignoring_one_vertex_reruns_the_chain_above_it() -> None:
    b = Builder()

    def graph(ignore: bool, suffix: str) -> Edge[Any]:
        lowest = b.step("v0", "s0", "r0" + suffix, ignore_cache=ignore)
        return b.step("v2", "s2", "r2" + suffix, b.step("v1", "s1", "r1" + suffix, lowest))

    b.solve(graph(False, ""))
    assert b.solve(graph(True, "-new")) == "r2-new"
    assert b.runs == ["v0", "v1", "v2"]
    assert b.solve(graph(False, "-no")) == "r2-new", "what it made is what later builds find"


class TestContentThatChangesUnderOneDefinition:
    """A step that is run again (`--no-cache`) may give something else than last time."""

    def graph(self, b: Builder, made: str, *, ignore: bool) -> Edge[Any]:
        lowest = b.step("date", "date", made, ignore_cache=ignore)
        copy = b.step("copy", "copy", None, lowest, slow=(0,), fn=lambda values: f"copy of {values[0]}")
        return b.step("top", "top", None, copy, fn=lambda values: f"top of {values[0]}")

    def test_what_is_made_from_it_is_made_again(self) -> None:
        b = Builder()
        assert b.solve(self.graph(b, "am", ignore=False)) == "top of copy of am"
        assert b.solve(self.graph(b, "pm", ignore=True)) == "top of copy of pm"
        assert b.solve(self.graph(b, "no", ignore=False)) == "top of copy of pm"
        assert b.runs == []

    def test_content_that_comes_back_is_found_again(self) -> None:
        b = Builder()
        b.solve(self.graph(b, "am", ignore=False))
        b.solve(self.graph(b, "pm", ignore=True))
        assert b.solve(self.graph(b, "am", ignore=True)) == "top of copy of am"
        assert b.runs == ["date"]
        assert b.solve(self.graph(b, "no", ignore=False)) == "top of copy of am", "and stays"

    def test_equal_content_of_another_step_finds_what_was_made_of_that_content(self) -> None:
        b = Builder()
        b.solve(self.graph(b, "am", ignore=False))
        b.solve(self.graph(b, "pm", ignore=True))
        for made in ("am", "pm"):
            other = b.step(f"other-{made}", f"other-{made}", made)
            assert b.solve(b.step(f"copy-{made}", "copy", "no", other, slow=(0,))) == f"copy of {made}"


def test_a_vanished_record_makes_the_step_run() -> None:
    b = Builder()
    edge = b.step("v1", "s1", "r1", b.step("v0", "s0", "r0"))
    b.solve(edge)
    b.store.broken = {"result-r1"}
    assert b.solve(edge) == "r1"
    assert b.runs == ["v1"]


def test_of_several_records_the_newest_is_taken_and_the_next_if_it_has_vanished() -> None:
    b = Builder()
    for value in ("old", "new"):
        b.solve(b.step("v", "s", value, b.step("v0", "s0", "r0"), ignore_cache=True))
    plain = b.step("v", "s", "no", b.step("v0", "s0", "r0"))
    assert b.solve(plain) == "new"
    b.store.broken = {"result-new"}
    assert b.solve(plain) == "old"
    assert b.runs == []


def test_a_source_of_several_digests_matches_by_any() -> None:
    b = Builder()

    def graph(*digests: str) -> Edge[Any]:
        return b.step("v1", "s1", "r1", b.step("img" + "".join(digests), "", "r0", digests=digests))

    b.solve(graph(sha("manifest 1"), sha("layers")))
    b.solve(graph(sha("manifest 2"), sha("layers")))
    assert b.runs == []
    b.solve(graph(sha("manifest 1"), sha("other layers")))
    assert b.runs == []
    b.solve(graph(sha("manifest 3"), sha("new layers")))
    assert "v1" in b.runs


def test_a_random_source_matches_by_content_only() -> None:
    b = Builder()

    def graph(session: str, value: str) -> Edge[Any]:
        context = b.step("context" + session, "", value, digests=("random:" + session,))
        return b.step("v1", "s1", "r-" + value, context, slow=(0,))

    b.solve(graph("1", "x"))
    assert b.solve(graph("2", "x")) == "r-x"
    assert b.runs == ["context2"]
    assert b.solve(graph("3", "y")) == "r-y"
    assert all(
        "random:" not in link.source
        for link in b.index.links_to(next(iter(b.solved(graph("3", "y"))[0].keys)))
    )


def test_steps_of_one_digest_with_other_guards_have_keys_of_their_own() -> None:
    """What BuildKit takes for one step: two files mounted the other way round."""
    b = Builder()

    def graph(session: str, guard: str) -> Edge[Any]:
        context = b.step("context" + session, "", "x", digests=("random:" + session,))
        step = b.step("v1", "s1", "by " + guard, context, slow=(0,), guard=guard)
        return b.step("v2", "s2", "", step, fn=lambda inputs: f"on {inputs[0]}")

    for n, guard in enumerate(("one", "other", "one", "other")):
        assert b.solve(graph(str(n), guard)) == f"on by {guard}"
        assert b.runs == [f"context{n}", *(["v1", "v2"] if n < 2 else [])]


def test_each_of_very_many_contents_on_one_base_is_found() -> None:
    b = Builder()

    def graph(n: int, session: str) -> Edge[Any]:
        context = b.step(f"context {n}{session}", "", f"content {n}", digests=(f"random:{n}{session}",))
        return b.step("copy", "copy", f"copy of {n}", b.step("base", "base", "b"), context, slow=(1,))

    for n in range(150):
        b.solve(graph(n, "once"))
    for n in (0, 77, 149):
        assert b.solve(graph(n, "again")) == f"copy of {n}"
        assert b.runs == [f"context {n}again"]
    assert b.solve(graph(150, "")) == "copy of 150"


def test_what_is_known_by_a_random_key_only_is_not_recorded() -> None:
    b = Builder()
    context = b.step("context", "", "x", digests=("random:1",))
    edge = b.step("v1", "s1", "r1", context)
    b.solve(b.step("v2", "s2", "r2", edge))
    b.solve(b.step("v2", "s2", "r2", edge))
    assert b.runs == ["context", "v1", "v2"]


def test_every_output_of_a_vertex_has_its_own_key() -> None:
    b = Builder()
    vertex = b.step("v", "s", "r", b.step("v0", "s0", "r0"), outputs=2).vertex
    assert [s.value for s in b.solved(Edge(vertex, 0), Edge(vertex, 1))] == [("r", 0), ("r", 1)]
    assert b.runs == ["v", "v0"]
    assert b.solve(Edge(vertex, 1)) == ("r", 1)
    assert b.runs == []


class TestObserver:
    """What is told of vertices, in which order."""

    class Watch:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def started(self, vertex: Any) -> None:
            self.seen.append(f"start {vertex.digest}")

        def completed(self, vertex: Any) -> None:
            self.seen.append(f"done {vertex.digest}")

        def cached(self, vertex: Any) -> None:
            self.seen.append(f"CACHED {vertex.digest}")

        def failed(self, vertex: Any, error: BaseException) -> None:
            self.seen.append(f"{type(error).__name__} {vertex.digest}")

    def test_every_step_of_a_fully_cached_build_is_cached(self) -> None:
        b, watch = Builder(), self.Watch()
        edge = b.step("v2", "s2", "r2", b.step("v1", "s1", "r1", b.step("v0", "s0", "r0")))
        b.solve(edge)
        b.solve(edge, observer=watch)
        assert watch.seen == ["start v0", "done v0", "CACHED v1", "CACHED v2"]

    def test_a_step_that_runs_starts_and_completes(self) -> None:
        b, watch = Builder(), self.Watch()
        b.solve(b.step("v1", "s1", "r1", b.step("v0", "s0", "r0")), observer=watch)
        assert watch.seen == ["start v0", "done v0", "start v0", "done v0", "start v1", "done v1"]

    def test_what_fails_and_what_ends_with_it(self) -> None:
        def fail(_: object) -> object:
            raise RuntimeError("boom")

        b, watch = Builder(), self.Watch()
        with pytest.raises(RuntimeError):
            b.solve(
                b.step("t", "t", 0, b.step("slow", "slow", 1, delay=0.05), b.step("bad", "bad", 2, fn=fail)),
                observer=watch,
            )
        assert watch.seen[-2:] == ["RuntimeError bad", "Cancelled slow"]


def test_require_cached_runs_nothing_and_says_what_would_run() -> None:
    b = Builder()
    base = b.step("v0", "s0", "r0")
    cached = b.step("v1", "s1", "r1", base)
    b.solve(cached)
    assert b.solve(cached, require_cached=True) == "r1"
    other = b.step("v3", "s3", "r3", b.step("v2", "s2", "r2", cached))
    with pytest.raises(NotCached) as caught:
        b.solve(other, require_cached=True)
    assert [vertex.digest for vertex in caught.value.vertices] == ["v3", "v2"]
    assert b.runs == []


def test_a_step_on_scratch_is_no_source() -> None:
    b = Builder()
    step = b.step("v0", "s0", "r0", is_source=False)
    with pytest.raises(NotCached):
        b.solve(step, require_cached=True)
    b.solve(step)
    watch = TestObserver.Watch()
    assert b.solve(b.step("v1", "s1", "r1", step), observer=watch) == "r1"
    assert watch.seen == ["CACHED v0", "start v1", "done v1"]


@pytest.mark.parametrize("length", [480, 5000])
def test_long_chains_need_no_deep_stack(length: int) -> None:
    b = Builder()

    def chain(first: str) -> Edge[Any]:
        edge = b.step(first, first, "same")
        for n in range(length):
            edge = b.step(f"v{n}", f"s{n}", n, edge, slow=(0,) if n % 10 == 0 else ())
        return edge

    for first, runs in (("base", length + 1), ("base", 0), ("base-2", 1)):
        b.solve(chain(first))
        assert len(b.runs) == runs


def row(b: Builder, first: str, length: int, **options: Any) -> list[Edge[Any]]:
    """Steps in a row on a base, of which only content tells that it is that of another day."""
    edges = [b.step("v0", "s0", 0, b.step(first, first, "same"), slow=(0,), **options)]
    for n in range(1, length):
        edges.append(b.step(f"v{n}", f"s{n}", n, edges[-1]))
    return edges


def test_a_row_of_steps_that_is_asked_for_at_several_places_is_found_at_each() -> None:
    b = Builder()

    def tops(first: str) -> list[Edge[Any]]:
        steps = row(b, first, 9)
        return [b.step(f"top{n}", f"top{n}", f"t{n}", steps[n], slow=(0,)) for n in (8, 4, 6, 0)]

    for first, runs in (("base", 14), ("base-2", 1), ("base-2", 0)):
        assert [each.value for each in b.solved(*tops(first))] == ["t8", "t4", "t6", "t0"]
        assert len(b.runs) == runs


def test_a_row_of_steps_is_found_up_to_the_one_that_changed() -> None:
    b = Builder()
    b.solve(row(b, "base", 9)[-1])
    steps = row(b, "base-2", 5)
    b.solve(b.step("w1", "new", 1, b.step("w0", "new", 0, steps[-1])))
    assert b.runs == ["base-2", "w0", "w1"]


def test_a_digest_that_fails_below_a_row_of_steps_fails_all_that_wait_for_it() -> None:
    async def unreadable(_: object) -> str:
        await tasks.in_thread(time.sleep, 0.01)
        raise SolveError("cannot read it")

    b = Builder()
    steps = row(b, "base", 6)
    steps[0].vertex.map = CacheMap(("sha256:0",), (CacheInput("", unreadable),))  # type: ignore[attr-defined]
    tops = [b.step(f"top{n}", f"top{n}", n, steps[n]) for n in (5, 2, 4)]
    with pytest.raises(SolveError, match="cannot read it"):
        b.solved(*tops)
    assert b.runs == ["base"]


# -- properties: a solve equals plain evaluation; an unchanged rebuild runs nothing --------------------


def random_graph(b: Builder, shape: int, seeds: list[str]) -> Edge[Any]:
    rng = random.Random(shape)
    nodes: list[Edge[Any]] = []
    for n, seed in enumerate(seeds):
        k = rng.randint(0, min(3, n))
        inputs = rng.sample(nodes, k)
        slow = tuple(i for i in range(k) if rng.random() < 0.5)
        selectors = {i: f"sel{rng.randint(0, 1)}" for i in range(k) if i not in slow and rng.random() < 0.3}

        def fn(values: Any, seed: str = seed, selectors: Any = selectors) -> int:
            # Few distinct values, so that contents are often equal.
            return int(sha(seed, tuple(values), tuple(sorted(selectors.items())))[7:], 16) % 5

        name = f"n{n}-{seed}-" + sha(*[edge.vertex.digest for edge in inputs], slow, selectors)[7:15]
        nodes.append(b.step(name, f"{seed}/{k}/{slow}", None, *inputs, slow=slow, selectors=selectors, fn=fn))
    return nodes[-1]


def plain(edge: Edge[Any], memo: dict[str, Any]) -> Any:
    if edge.vertex.digest not in memo:
        memo[edge.vertex.digest] = edge.vertex.fn([plain(below, memo) for below in edge.vertex.inputs])  # type: ignore[attr-defined]
    return memo[edge.vertex.digest]


@pytest.mark.parametrize("shape", range(300))
def test_solve_equals_plain_evaluation(shape: int) -> None:
    rng = random.Random(shape)
    b = Builder()
    seeds = [f"x{rng.randint(0, 6)}" for _ in range(rng.randint(2, 14))]
    for _ in range(6):
        edge = random_graph(b, shape, seeds)
        assert b.solve(edge) == plain(edge, {})
        assert len(b.runs) == len(set(b.runs)), "nothing runs twice in a solve"
        b.solve(random_graph(b, shape, seeds))
        assert b.runs == []
        assert b.store.loads == 1, "an unchanged rebuild loads one record"
        seeds[rng.randrange(len(seeds))] = f"x{rng.randint(0, 6)}"
