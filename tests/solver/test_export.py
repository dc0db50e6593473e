"""solver.export: what a solve leaves for caches to carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fake_steps import Builder, sha
from test_solver import random_graph

from inlay import tasks
from inlay.digest import Digest
from inlay.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from inlay.solver.export import export
from inlay.solver.index import CacheIndex, Memory
from inlay.solver.keys import CONTENT, output_key, stack

if TYPE_CHECKING:
    from inlay.solver.export import Export
    from inlay.solver.keys import RecordGraph
    from inlay.solver.vertex import Edge


def exported(b: Builder, *edges: Edge[Any]) -> Export:
    b.log.clear()
    solver = b.solver()
    tasks.run(solver.solve(edges))
    return export(solver, edges)


def links(graph: RecordGraph, digest: str) -> list[set[tuple[str, str]]]:
    """For each input of the only record of `digest`: (selector, digest of the record it comes from)."""
    (node,) = [node for node in graph if node.digest == digest]
    return [{(selector, graph[at].digest) for selector, at in ways} for ways in node.inputs]


def step_key(seed: str, output: int = 0) -> str:
    return output_key(sha("seed", seed), output)


def content_key(value: str) -> str:
    return output_key(sha("content", value), CONTENT)


def with_layers(export: Export) -> RecordGraph:
    """The graph with a layer for each record, on those of its first input."""
    chains: list[Any] = []
    graph = []
    for node, record in zip(export.graph, export.records, strict=True):
        below = chains[node.inputs[0][0][1]] if node.inputs else None
        blob = Descriptor(OCI_LAYER_GZIP, Digest.of(record.id), 1) if record else None
        chain = stack([*(below.descriptors() if below else ()), blob]) if blob else None
        chains.append(chain)
        results = ((chain, record.created),) if chain and record else ()
        graph.append(node._replace(results=results))
    return graph


def shape(graph: RecordGraph) -> set[str]:
    """`graph` without its order."""
    names: list[str] = []
    for node in graph:
        results = [
            ([layer.digest for layer in chain.descriptors()], created) for chain, created in node.results
        ]
        names.append(
            sha(node.digest, *[sorted((s, names[at]) for s, at in ways) for ways in node.inputs], results)
        )
    return set(names)


def test_an_executed_step_has_its_definition_and_its_content_link() -> None:
    b = Builder()
    stage = b.step("stage", "stage", "x")
    graph, records, targets = exported(
        b, b.step("copy", "copy", "c", b.step("base", "base", "b"), stage, slow=(1,))
    )
    assert links(graph, step_key("copy")) == [
        {("", step_key("base"))},
        {("sel-1", step_key("stage")), ("", content_key("x"))},
    ]
    assert [record.id if record else None for record in records][targets[0]] == "result-c"
    assert sum(record is not None for record in records) == 1, "roots have no results"


def test_both_keys_of_an_image_are_exported_and_a_local_source_is_not() -> None:
    b = Builder()
    image = b.step("image", "", "i", digests=(sha("manifest"), sha("layers")))
    context = b.step("context", "", "x", digests=("random:1",))
    graph = exported(b, b.step("copy", "copy", "c", image, context, slow=(1,))).graph
    roots = {("", output_key(sha(name), 0)) for name in ("manifest", "layers")}
    assert links(graph, step_key("copy")) == [roots, {("", content_key("x"))}]
    assert len(graph) == 4


def test_what_is_known_by_a_random_key_only_is_dropped_with_all_that_hangs_on_it() -> None:
    b = Builder()
    context = b.step("context", "", "x", digests=("random:1",))
    bind = b.step("bind", "bind", "b", context)
    top = b.step("top", "top", "t", bind, b.step("base", "base", "b"))
    export = exported(b, top)
    assert [node.digest for node in export.graph] == [step_key("base")]
    assert export.records == [None]
    assert export.targets == []


def test_what_goes_onto_something_random_is_exported_without_it() -> None:
    b = Builder()
    stage = b.step("stage", "stage", "s", b.step("base", "base", "b"))
    onto = b.step("onto", "onto", "o", b.step("context", "", "x", digests=("random:1",)), stage)
    export = exported(b, b.step("top", "top", "t", onto))
    assert links(export.graph, step_key("stage")) == [{("", step_key("base"))}]
    assert [record.id for record in export.records if record] == ["result-s"]


def test_content_of_something_random_is_exported_all_the_same() -> None:
    b = Builder()
    bind = b.step("bind", "bind", "made", b.step("context", "", "x", digests=("random:1",)))
    graph = exported(b, b.step("copy", "copy", "c", b.step("base", "base", "b"), bind, slow=(1,))).graph
    assert links(graph, step_key("copy")) == [{("", step_key("base"))}, {("", content_key("made"))}]


def test_guards_are_not_exported_and_imports_are_trusted_by_whoever_comes_first() -> None:
    def graph(b: Builder, session: str, guard: str) -> Edge[Any]:
        context = b.step("context" + session, "", "x", digests=("random:" + session,))
        return b.step("v1", "s1", "by " + guard, context, slow=(0,), guard=guard)

    here, there = Builder(), Builder()
    guarded, plain = exported(here, graph(here, "1", "one")), exported(there, graph(there, "1", ""))
    assert [node._replace(results=()) for node in guarded.graph] == [
        node._replace(results=()) for node in plain.graph
    ]
    assert links(guarded.graph, step_key("s1")) == [{("", content_key("x"))}]
    other = Builder(CacheIndex(Memory()))
    other.index.ingest(with_layers(guarded))
    other.solve(graph(other, "2", "one"))
    assert other.runs == ["context2"]  # as with BuildKit, whose caches do not tell
    later = Builder(CacheIndex(other.index._local))
    later.store = other.store
    later.solve(graph(later, "3", "one"))
    assert later.runs == ["context3"]  # the use of it was noted
    assert later.solve(graph(later, "4", "other")) == "by other"
    assert later.runs == ["context4", "v1"]


def test_what_is_known_here_and_by_an_import_is_one_record() -> None:
    def graph(b: Builder, session: str) -> Edge[Any]:
        context = b.step("context" + session, "", "x", digests=("random:" + session,))
        copy = b.step("copy", "copy", "c", b.step("base", "base", "b"), context, slow=(1,), guard="two paths")
        return b.step("run", "run", "r", copy)

    b = Builder(CacheIndex(Memory()))
    cold = exported(b, graph(b, "1"))
    both = Builder(CacheIndex(b.index._local))
    both.store = b.store
    both.index.ingest(with_layers(cold))
    warm = exported(both, graph(both, "2"))
    assert both.runs == ["context2"]
    assert shape(warm.graph) == shape(cold.graph)
    assert len(warm.graph) == len(cold.graph)
    assert [record is not None for record in warm.records] == [record is not None for record in cold.records]


def test_steps_that_only_guards_tell_apart_are_one_record_without_a_result() -> None:
    def graph(b: Builder, guard: str) -> Edge[Any]:
        context = b.step("context", "", "x", digests=("random:1",))
        return b.step("v" + guard, "copy", "by " + guard, context, slow=(0,), guard=guard)

    b = Builder()
    both = exported(b, graph(b, "one"), graph(b, "other"))
    assert links(both.graph, step_key("copy")) == [{("", content_key("x"))}]
    assert both.records == [None, None]
    assert both.targets == [1]


def test_links_of_older_builds_are_left_out() -> None:
    b = Builder()

    def build(seed: str) -> Edge[Any]:
        return b.step("copy", "copy", "c", b.step(seed, seed, "same"), slow=(0,))

    exported(b, build("old"))
    graph = exported(b, build("new")).graph
    assert links(graph, step_key("copy")) == [{("sel-0", step_key("new")), ("", content_key("same"))}]


def test_a_fully_cached_build_exports_what_the_cold_one_did() -> None:
    b = Builder()
    stage = b.step("stage", "stage", "x", b.step("base", "base", "b"))
    edge = b.step("copy", "copy", "c", b.step("base", "base", "b"), stage, slow=(1,))
    cold = exported(b, edge)
    warm = exported(b, edge)
    assert b.runs == []
    assert shape(with_layers(warm)) == shape(with_layers(cold))


def test_what_was_made_now_is_exported_though_an_import_says_that_it_is_newer() -> None:
    there = Builder(time_ns=2_000_000_000)
    edge = there.step("run", "run", "theirs", there.step("base", "base", "b"))
    here = Builder()
    here.index.ingest(with_layers(exported(there, edge)))
    export = exported(here, here.step("run", "run", "own", here.step("base", "base", "b"), ignore_cache=True))
    assert [record.id for record in export.records if record] == ["result-own"]


def test_a_vertex_with_a_key_of_another_shares_its_record() -> None:
    b = Builder()
    stages = [b.step(name, name, "same") for name in ("p", "q")]
    copies = [b.step(f"copy {n}", "copy", "c", stage, slow=(0,)) for n, stage in enumerate(stages)]
    graph = exported(b, b.step("top", "top", "t", *copies)).graph
    assert links(graph, step_key("copy")) == [
        {("sel-0", step_key("p")), ("sel-0", step_key("q")), ("", content_key("same"))}
    ]


def test_a_step_that_leaves_its_input_as_it_is_makes_no_loop() -> None:
    b = Builder()

    def touch(name: str, below: Edge[Any]) -> Edge[Any]:
        return b.step(name, "touch", "same", below, slow=(0,))

    edge = touch("third", touch("second", touch("first", b.step("base", "base", "same"))))
    for _ in range(2):
        graph = exported(b, edge).graph
        assert_earlier_first(graph)
        assert ("", content_key("same")) in links(graph, step_key("touch"))[0]


def assert_earlier_first(graph: RecordGraph) -> None:
    for at, node in enumerate(graph):
        assert all(ways and all(link < at for _, link in ways) for ways in node.inputs)


@pytest.mark.parametrize("number", range(150))
def test_an_import_spares_all_work_and_is_exported_again_as_it_came(number: int) -> None:
    b = Builder()
    seeds = [f"x{n % 5}" for n in range(10)]
    cold = exported(b, random_graph(b, number, seeds))
    assert_earlier_first(cold.graph)
    if not cold.graph[cold.targets[0]].inputs:
        return
    carried = with_layers(cold)
    known = CacheIndex()
    known.ingest(carried)

    local = Memory()
    there = Builder(CacheIndex(local))
    there.index.ingest(carried)
    warm = exported(there, random_graph(there, number, seeds))
    assert there.runs == []
    again = [
        node._replace(results=tuple((r.remote, r.created) for r in known.records([record.key]) if r.remote))
        if record
        else node
        for node, record in zip(warm.graph, warm.records, strict=True)
    ]
    assert shape(again) == shape(carried)

    # What was used is kept: the next build needs no import.
    later = Builder(CacheIndex(local))
    later.store = there.store
    later.solve(random_graph(later, number, seeds))
    assert later.runs == []
