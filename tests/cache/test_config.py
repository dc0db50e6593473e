"""cache.config: sorting, hostile input, round trips."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.cache.config import config_of, encode, graph_of, parse_config, parse_records
from inlay.digest import Digest
from inlay.errors import CacheError
from inlay.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from inlay.solver.keys import RecordGraph, RecordNode, stack

if TYPE_CHECKING:
    import random

NOW = "2026-01-02T03:04:05.678Z"


def digest(name: object) -> Digest:
    return Digest.of(str(name))


def layer(name: object) -> Descriptor:
    return Descriptor(OCI_LAYER_GZIP, digest(name), 1)


def node(name: object, *inputs: list[int], blobs: str = "", selector: str = "") -> RecordNode:
    chain = stack(layer(blob) for blob in blobs)
    links = tuple(tuple((selector, link) for link in links) for links in inputs)
    return RecordNode(digest(name), links, ((chain, NOW),) if chain else ())


def text(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def again(raw: bytes, graph: RecordGraph) -> bytes:
    blobs = {str(d.digest): d for n in graph for chain, _ in n.results for d in chain.descriptors()}
    return config_of(graph_of(parse_config(raw), blobs, None)).to_json()


def shuffled(graph: RecordGraph, rng: random.Random) -> RecordGraph:
    """The same graph in another order in which links still lead to earlier nodes."""
    left, place, order = list(range(len(graph))), {}, []
    while left:
        ready = [n for n in left if all(link in place for links in graph[n].inputs for _, link in links)]
        n = rng.choice(ready)
        left.remove(n)
        place[n] = len(order)
        inputs = [[(s, place[link]) for s, link in links] for links in graph[n].inputs]
        for links in inputs:
            rng.shuffle(links)
        order.append(graph[n]._replace(inputs=tuple(map(tuple, inputs))))
    return order


@st.composite
def graphs(draw: st.DrawFn) -> RecordGraph:
    """Records of few digests; those of one digest differ in their links, or they would be one record."""
    graph: RecordGraph = []
    seen = set()
    for n in range(draw(st.integers(1, 10))):
        count = draw(st.integers(0, 2)) if n else 0
        inputs = [
            draw(st.lists(st.integers(0, len(graph) - 1), min_size=1, max_size=3, unique=True))
            for _ in range(count)
        ]
        name = draw(st.integers(0, 4)) if inputs else f"root {n}"
        selector = draw(st.sampled_from(["", str(digest("selector"))]))
        identity = (name, selector, tuple(frozenset(links) for links in inputs))
        if identity not in seen:
            seen.add(identity)
            blobs = draw(st.text("abc", max_size=4)) if inputs else ""
            graph.append(node(name, *inputs, blobs=blobs, selector=selector))
    return graph


@given(graphs(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_equal_graphs_are_equal_bytes_in_any_order_and_survive_a_round_trip(
    graph: RecordGraph, rng: random.Random
) -> None:
    raw = config_of(graph).to_json()
    assert config_of(shuffled(graph, rng)).to_json() == raw
    assert again(raw, graph) == raw


def test_a_blob_on_two_stacks_is_two_layers_and_a_parent_of_zero_is_not_written() -> None:
    graph = [node("root"), node("x", [0], blobs="ab"), node("y", [0], blobs="b")]
    written = json.loads(config_of(graph).to_json())
    a, b = sorted((digest("a"), digest("b")))
    assert [each["blob"] for each in written["layers"]] == sorted([digest("a"), digest("b"), digest("b")])
    assert sum(each.get("parent") == -1 for each in written["layers"]) == 2
    assert (a, b) != (b, a)


def test_an_empty_graph_is_an_empty_object() -> None:
    assert config_of([]).to_json() == b"{}"


def test_a_result_with_a_blob_that_is_not_there_is_left_out_and_its_record_stays() -> None:
    graph = [node("root"), node("x", [0], blobs="ab"), node("y", [1], blobs="abc")]
    raw = config_of(graph).to_json()
    blobs = {str(digest(b)): layer(b) for b in "ab"}
    results = [len(n.results) for n in graph_of(parse_config(raw), blobs, None)]
    assert sorted(results) == [0, 0, 1]


def test_chains_share_what_they_have_in_common() -> None:
    graph = [node("root"), node("x", [0], blobs="ab"), node("y", [1], blobs="abc")]
    blobs = {str(digest(b)): layer(b) for b in "abc"}
    parsed = graph_of(parse_config(config_of(graph).to_json()), blobs, "here")
    x, y = (n.results[0][0] for n in parsed if n.inputs)
    short, long = sorted((x, y), key=lambda chain: chain.depth)
    assert long.parent is short
    assert long.provider == "here"


def test_inline_records_stand_on_the_layers_of_the_image() -> None:
    raw = text([{"digest": digest("r"), "layers": [{"layer": 1, "createdAt": NOW}]}])  # type: ignore[arg-type]
    config = parse_records(raw, [digest("a"), digest("b")])
    (parsed,) = graph_of(config, {str(digest(b)): layer(b) for b in "ab"}, None)
    assert [d.digest for d in parsed.results[0][0].descriptors()] == [digest("a"), digest("b")]


ROOT = {"digest": digest("root")}
HOSTILE: dict[str, Any] = {
    "not an object": [],
    "records that are no list": {"records": 7},
    "a record that is no object": {"records": ["x"]},
    "no digest": {"records": [{}]},
    "a digest that is a path": {"records": [{"digest": "sha256:../../etc/passwd"}]},
    "a digest that is a number": {"records": [{"digest": 7}]},
    "a link to nowhere": {"records": [{**ROOT, "inputs": [[{"link": 1}]]}]},
    "a negative link": {"records": [{**ROOT, "inputs": [[{"link": -1}]]}]},
    "a link that is true": {"records": [ROOT, {**ROOT, "inputs": [[{"link": True}]]}]},
    "a link to itself": {"records": [{**ROOT, "inputs": [[{"link": 0}]]}]},
    "a loop": {"records": [{**ROOT, "inputs": [[{"link": 1}]]}, {**ROOT, "inputs": [[{"link": 0}]]}]},
    "an input without links": {"records": [{**ROOT, "inputs": [[]]}]},
    "inputs that are text": {"records": [{**ROOT, "inputs": "xx"}]},
    "a selector that is no digest": {"records": [ROOT, {**ROOT, "inputs": [[{"link": 0, "selector": "x"}]]}]},
    "a result of no layer": {"records": [{**ROOT, "layers": [{"layer": 0, "createdAt": NOW}]}]},
    "a time that is none": {
        "layers": [{"blob": digest("a"), "parent": -1}],
        "records": [{**ROOT, "layers": [{"layer": 0, "createdAt": "yesterday"}]}],
    },
    "a layer on itself": {"layers": [{"blob": digest("a")}]},
    "layers on one another": {
        "layers": [{"blob": digest("a"), "parent": 1}, {"blob": digest("a"), "parent": 0}]
    },
    "a layer on nothing that exists": {"layers": [{"blob": digest("a"), "parent": 5}]},
    "a parent below none": {"layers": [{"blob": digest("a"), "parent": -2}]},
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_a_cache_config_is_refused(value: Any) -> None:
    with pytest.raises(CacheError):
        graph_of(parse_config(text(value)), {str(digest("a")): layer("a")}, None)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b'{"records":' * 10_000])
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(CacheError):
        parse_config(raw)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8))
def test_any_value_in_any_place_is_refused_or_read(value: Any) -> None:
    for place in (
        {"records": value},
        {"layers": value},
        {"records": [{**ROOT, "inputs": value, "layers": value}]},
    ):
        try:
            graph_of(parse_config(encode(place)), {}, None)
        except CacheError:
            continue


def test_a_long_row_of_records_and_layers_is_read_and_written_in_linear_time() -> None:
    def raw(count: int) -> tuple[bytes, dict[str, Descriptor]]:
        layers = [{"blob": digest(n), "parent": n - 1} for n in range(count)]
        records: list[dict[str, Any]] = [ROOT]
        for n in range(count):
            link = {"link": n}
            records.append(
                {"digest": digest(f"r{n}"), "inputs": [[link]], "layers": [{"layer": n, "createdAt": NOW}]}
            )
        return text({"layers": layers, "records": records}), {str(digest(n)): layer(n) for n in range(count)}

    def seconds(count: int) -> float:
        config, blobs = raw(count)
        before = time.process_time()
        config_of(graph_of(parse_config(config), blobs, None)).to_json()
        return time.process_time() - before

    seconds(500)
    assert seconds(8000) < 6 * seconds(2000) + 0.1
