"""cache.inline: what goes into an image config, and what is read out of one."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from inlay.cache.inline import import_inline, inline_cache
from inlay.digest import Digest
from inlay.errors import CacheError, ContentError
from inlay.oci.descriptor import CREATED_AT, OCI_LAYER, OCI_LAYER_GZIP, UNCOMPRESSED, Descriptor
from inlay.oci.image import INLINE_CACHE, INLINE_CACHE_PROPOSED, ImageConfig
from inlay.solver.keys import Chain, RecordGraph, RecordNode, stack

NOW = "2026-01-02T03:04:05.678Z"


def layer(name: str) -> Descriptor:
    return Descriptor(OCI_LAYER_GZIP, Digest.of(name), 1).annotated({UNCOMPRESSED: Digest.of("diff " + name)})


def graph(*results: str) -> RecordGraph:
    nodes = [RecordNode(Digest.of("root"))]
    for n, blobs in enumerate(results):
        chain = stack(map(layer, blobs))
        nodes.append(RecordNode(Digest.of(f"r{n}"), ((("", 0),),), ((chain, NOW),) if chain else ()))
    return nodes


def written(records: RecordGraph, blobs: str) -> dict[str, Any]:
    """What the record of each name has in an image with `blobs`."""
    field = inline_cache(records, [layer(blob).digest for blob in blobs])
    assert field is not None
    names = {Digest.of(f"r{n}"): f"r{n}" for n in range(9)} | {Digest.of("root"): "root"}
    return {names[record["digest"]]: record for record in json.loads(base64.b64decode(field))}


def test_a_result_that_is_the_lower_part_of_the_image_is_named_by_its_highest_layer() -> None:
    records = written(graph("a", "ab"), "abc")
    assert records["r0"]["layers"] == [{"layer": 0, "createdAt": NOW}]
    assert records["r1"]["layers"] == [{"layer": 1, "createdAt": NOW}]
    assert set(records["root"]) == {"digest"}


def test_a_result_of_other_layers_of_the_image_lists_them_and_loses_its_time() -> None:
    records = written(graph("a", "c", "ac"), "abc")
    assert records["r1"]["chains"] == [{"layers": [2], "createdAt": "0001-01-01T00:00:00Z"}]
    assert records["r2"]["chains"] == [{"layers": [0, 2], "createdAt": "0001-01-01T00:00:00Z"}]


def test_a_result_with_a_blob_outside_the_image_is_dropped_and_its_record_is_not() -> None:
    records = written(graph("a", "ax"), "abc")
    assert set(records["r1"]) == {"digest", "inputs"}


def test_nothing_is_written_when_no_result_is_left() -> None:
    assert inline_cache(graph("x", ""), [layer("a").digest]) is None


def test_a_blob_that_occurs_twice_matches_where_it_is_asked_for() -> None:
    records = written(graph("aba", "b"), "aba")
    assert records["r0"]["layers"] == [{"layer": 2, "createdAt": NOW}]
    assert records["r1"]["chains"] == [{"layers": [1], "createdAt": "0001-01-01T00:00:00Z"}]


def test_layers_of_an_uncompressed_image_are_known_by_their_diff_ids() -> None:
    field = inline_cache(graph("a", "ab"), [Digest.of("diff a"), Digest.of("diff b")])
    assert field is not None
    assert [r.get("layers", [{}])[0].get("layer") for r in json.loads(base64.b64decode(field))].count(
        None
    ) == 1


def config(field: object, layers: str = "ab", *, history: int = 2, name: str = INLINE_CACHE) -> ImageConfig:
    fields = {
        "rootfs": {"type": "layers", "diff_ids": [Digest.of("diff " + blob) for blob in layers]},
        "history": [{"created": NOW, "created_by": f"RUN {n}"} for n in range(history)]
        + [{"created": NOW, "empty_layer": True}],
        name: field,
    }
    return ImageConfig(b"", fields)


def image(layers: str) -> list[Descriptor]:
    return [Descriptor(OCI_LAYER, layer(blob).digest, 1) for blob in layers]


def test_what_was_written_is_read_again() -> None:
    field = inline_cache(graph("a", "ab", "b"), [layer(blob).digest for blob in "ab"])
    for name in (INLINE_CACHE, INLINE_CACHE_PROPOSED):
        records = import_inline(config(field, name=name), image("ab"), "here", warn=pytest.fail)
        assert records is not None
        chains = [chain for record in records for chain, _ in record.results]
        assert sorted(len(chain.descriptors()) for chain in chains) == [1, 1, 2]
        assert all(chain.provider == "here" for chain in chains)
        assert inline_cache(records, [layer(blob).digest for blob in "ab"]) == field


def test_layers_get_what_the_history_says_of_them() -> None:
    field = inline_cache(graph("ab"), [layer(blob).digest for blob in "ab"])
    for history, described in ((2, ["RUN 0", "RUN 1"]), (1, ["RUN 0", ""]), (0, ["", ""])):
        records = import_inline(config(field, history=history), image("ab"), None, warn=pytest.fail)
        assert records is not None
        (chain,) = [chain for record in records for chain, _ in record.results]
        layers = chain.descriptors()
        assert [each.annotation("buildkit/description") for each in layers] == described
        assert [bool(each.annotation(CREATED_AT)) for each in layers] == [bool(text) for text in described]
        assert [each.annotation(UNCOMPRESSED) for each in layers] == [
            Digest.of("diff a"),
            Digest.of("diff b"),
        ]


@pytest.mark.parametrize("history", [None, 1.5, True, {"a": 1}, [1.5]])
def test_a_history_that_is_none_says_nothing(history: object) -> None:
    plain = config("W10=")
    of_image = plain._replace(fields={**plain.fields, "history": history})
    assert import_inline(of_image, image("ab"), None, warn=pytest.fail) == []


def test_escapes_of_half_a_character_do_no_harm() -> None:
    raw = b'{"history":[{"created_by":"a\\ud800\\uDFFFb\\ud83d\\ude00"}],"\\udc00":{"a":["\\ud800"]}}'
    found = ImageConfig.parse(raw)
    assert found.history[0]["created_by"] == "a\U000103ffb\U0001f600"
    assert found.fields["\ufffd"] == {"a": ["\ufffd"]}
    with pytest.raises(ContentError, match="not JSON"):
        ImageConfig.parse(b'{"a":' * 2000 + b'"\\ud800"' + b"}" * 2000)


def test_an_image_without_a_cache_or_without_layers_has_none() -> None:
    assert import_inline(ImageConfig(b"", {}), image("ab"), None, warn=pytest.fail) is None
    assert import_inline(config("W10=", ""), [], None, warn=pytest.fail) is None


def test_an_image_whose_config_and_manifest_disagree_is_not_used() -> None:
    warnings: list[str] = []
    assert import_inline(config("W10=", "abc"), image("ab"), None, warn=warnings.append) is None
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "field", ["#", "W10", 7, {"a": 1}, "e30=", base64.b64encode(b'[{"digest":1}]').decode()]
)
def test_a_field_that_is_no_cache_is_refused(field: object) -> None:
    with pytest.raises(CacheError):
        import_inline(config(field), image("ab"), None, warn=pytest.fail)


def test_a_long_row_of_layers_is_written_in_linear_time() -> None:
    def seconds(count: int) -> float:
        chain, nodes = None, [RecordNode(Digest.of("root"))]
        for n in range(count):
            chain = Chain(layer(str(n)), chain)
            nodes.append(RecordNode(Digest.of(f"r{n}"), ((("", n),),), ((chain, NOW),)))
        blobs = [layer(str(n)).digest for n in range(count)]
        before = time.process_time()
        field = inline_cache(nodes, blobs)
        took = time.process_time() - before
        records = json.loads(base64.b64decode(field or ""))
        assert sorted(r["layers"][0]["layer"] for r in records if "layers" in r) == [*range(count)]
        return took

    seconds(500)
    assert seconds(6000) < 8 * seconds(1500) + 0.1
