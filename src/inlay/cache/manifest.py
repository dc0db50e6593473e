"""A cache as an object of its own in a registry or a layout (BuildKit: cache/remotecache/export.go).

By default an image manifest whose config is the cache config; in the older form an index (or docker's
manifest list) that lists the layers, and the cache config last. One that lies beside an image, with the
layers that are not the image's own, is the former with the image as its `subject`.
"""

from __future__ import annotations

from inlay.cache.config import described_config, encode
from inlay.digest import Digest
from inlay.errors import UsageError
from inlay.oci.descriptor import (
    CACHE_CONFIG,
    CREATED_AT,
    DOCKER_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    TO_DOCKER,
    TO_OCI,
    UNCOMPRESSED,
    Descriptor,
)
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from inlay.solver.keys import RecordGraph

BUILDKIT_LIMIT = 1 << 20
"""BuildKit refuses to import a manifest or cache config of more bytes."""


class CacheManifest(NamedTuple):
    """What to push: first the blobs of `layers`, then `config` (described by `config_descriptor`), then
    the manifest `raw`."""

    raw: bytes
    media_type: str
    config: bytes
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(
            self.media_type, Digest.of(self.raw), len(self.raw), artifact_type=self.artifact_type
        )

    @property
    def config_descriptor(self) -> Descriptor:
        return Descriptor(CACHE_CONFIG, Digest.of(self.config), len(self.config))

    @property
    def is_too_large(self) -> bool:
        """Whether BuildKit would refuse to import it; inlay would not."""
        return max(len(self.raw), len(self.config)) > BUILDKIT_LIMIT


def cache_manifest(
    graph: RecordGraph,
    *,
    image_manifest: bool = True,
    oci_media_types: bool = True,
    subject: Descriptor | None = None,
) -> CacheManifest | None:
    """The cache of `graph`; None where no record has a result: then there is nothing worth pushing.

    `subject` is the image that it is to lie beside; only an image manifest has one. Raises `UsageError` for an
    image manifest with docker's media types, which there is not.
    """
    if image_manifest and not oci_media_types:
        raise UsageError("a cache with image-manifest=true needs oci-mediatypes=true")
    config, descriptors = described_config(graph)
    if not config.layers:
        return None
    media_types = TO_OCI if oci_media_types else TO_DOCKER
    layers = tuple(_published(layer, media_types) for layer in descriptors)
    unsent = CacheManifest(
        b"", OCI_MANIFEST, config.to_json(), layers, CACHE_CONFIG if subject is not None else ""
    )
    described = unsent.config_descriptor.to_json()
    listed = [layer.to_json() for layer in layers]
    if image_manifest:
        fields: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        if subject is not None:
            fields["artifactType"] = CACHE_CONFIG
        fields |= {"config": described, "layers": listed}
        if subject is not None:
            fields["subject"] = subject._replace(annotations=(), platform=None).to_json()
        return unsent._replace(raw=encode(fields))
    media_type = OCI_INDEX if oci_media_types else DOCKER_LIST
    raw = encode({"schemaVersion": 2, "mediaType": media_type, "manifests": [*listed, described]})
    return unsent._replace(raw=raw, media_type=media_type)


def _published(layer: Descriptor, media_types: Mapping[str, str]) -> Descriptor:
    """The layer with the annotations that importers know, in the wanted form of its media type."""
    notes = tuple((name, value) for name, value in layer.annotations if name in (CREATED_AT, UNCOMPRESSED))
    media_type = media_types.get(layer.media_type, layer.media_type)
    return Descriptor(media_type, layer.digest, layer.size, notes)
