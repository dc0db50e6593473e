"""cache.manifest: the forms in which a cache is an object of its own."""

from __future__ import annotations

import json

import pytest

from inlay.cache.config import graph_of, parse_config
from inlay.cache.manifest import BUILDKIT_LIMIT, cache_manifest
from inlay.digest import Digest
from inlay.errors import UsageError
from inlay.oci.descriptor import (
    CACHE_CONFIG,
    CREATED_AT,
    DESCRIPTION,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    UNCOMPRESSED,
    Descriptor,
)
from inlay.oci.image import Index, Manifest, parse_manifest
from inlay.solver.keys import RecordGraph, RecordNode, stack

NOW = "2026-01-02T03:04:05.678Z"


def layer(name: str, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    notes = {UNCOMPRESSED: Digest.of("diff"), CREATED_AT: NOW, DESCRIPTION: "RUN x", "other": "y"}
    return Descriptor(media_type, Digest.of(name), 1).annotated(notes)


def graph(*layers: Descriptor) -> RecordGraph:
    chain = stack(layers)
    return [
        RecordNode(Digest.of("root")),
        RecordNode(Digest.of("r"), ((("", 0),),), ((chain, NOW),) if chain else ()),
    ]


def test_the_default_is_an_image_manifest_whose_config_is_the_cache_config() -> None:
    made = cache_manifest(graph(layer("a"), layer("b")))
    assert made is not None
    parsed = parse_manifest(made.raw)
    assert isinstance(parsed, Manifest)
    assert (made.media_type, parsed.config) == (OCI_MANIFEST, made.config_descriptor)
    assert parsed.config.media_type == CACHE_CONFIG
    assert parsed.layers == made.layers
    assert list(json.loads(made.raw)) == ["schemaVersion", "mediaType", "config", "layers"]
    blobs = {str(each.digest): each for each in parsed.layers}
    assert len(graph_of(parse_config(made.config), blobs, None)) == 2


def test_a_cache_beside_an_image_names_it_and_is_read_like_any_other() -> None:
    image = Descriptor(OCI_MANIFEST, Digest.of("image"), 5).annotated({"not": "kept"})
    made = cache_manifest(graph(layer("a")), subject=image)
    plain = cache_manifest(graph(layer("a")))
    assert made is not None
    assert plain is not None
    fields = json.loads(made.raw)
    assert list(fields) == ["schemaVersion", "mediaType", "artifactType", "config", "layers", "subject"]
    assert fields["subject"] == {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": 5}
    assert made.descriptor.artifact_type == fields.pop("artifactType") == CACHE_CONFIG
    assert {**fields, "subject": None} == {**json.loads(plain.raw), "subject": None}


def test_layers_keep_only_the_annotations_that_importers_know() -> None:
    made = cache_manifest(graph(layer("a")))
    assert made is not None
    assert made.layers[0].annotations == ((CREATED_AT, NOW), (UNCOMPRESSED, Digest.of("diff")))


@pytest.mark.parametrize(
    ("oci", "media_type", "layer_type"),
    [(True, OCI_INDEX, OCI_LAYER_GZIP), (False, DOCKER_LIST, DOCKER_LAYER_GZIP)],
)
@pytest.mark.parametrize("given", [OCI_LAYER_GZIP, DOCKER_LAYER_GZIP])
def test_the_older_form_is_an_index_with_the_config_last(
    oci: bool, media_type: str, layer_type: str, given: str
) -> None:
    made = cache_manifest(graph(layer("a", given)), image_manifest=False, oci_media_types=oci)
    assert made is not None
    parsed = parse_manifest(made.raw)
    assert isinstance(parsed, Index)
    assert made.media_type == parsed.media_type == media_type
    assert [each.media_type for each in parsed.manifests] == [layer_type, CACHE_CONFIG]
    assert parsed.manifests[-1] == made.config_descriptor


def test_a_cache_without_layers_is_not_worth_a_manifest() -> None:
    assert cache_manifest(graph()) is None


def test_an_image_manifest_has_no_docker_form() -> None:
    with pytest.raises(UsageError):
        cache_manifest(graph(layer("a")), oci_media_types=False)


def test_what_buildkit_would_refuse_is_told() -> None:
    made = cache_manifest(graph(layer("a")))
    assert made is not None
    assert not made.is_too_large
    assert made._replace(config=b"x" * (BUILDKIT_LIMIT + 1)).is_too_large
