"""From layers and the frontend's image config to a manifest (BuildKit: exporter/containerimage/writer.go).

Pure values: nothing is read or pushed here. The bytes are those that BuildKit would write for the same
layers and times, so an image whose steps were all cached keeps its digest.
"""

from __future__ import annotations

from inlay import json
from inlay.digest import Digest
from inlay.errors import ExportError
from inlay.golang.json import dumps, dumps_indented
from inlay.golang.timestamp import format_ns, parse_ns
from inlay.oci.descriptor import (
    CREATED_AT,
    DESCRIPTION,
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    TO_DOCKER,
    TO_OCI,
    UNCOMPRESSED,
    Descriptor,
)
from inlay.oci.image import INLINE_CACHE, Index, Manifest
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from inlay.platform import Platform

_INTERNAL_ANNOTATIONS = (UNCOMPRESSED, CREATED_AT, DESCRIPTION)
_INTERNAL_PREFIXES = ("containerd.io/distribution.source.",)


class ImageLayer(NamedTuple):
    """A layer as it enters an image. `created` is RFC 3339 text, empty when unknown."""

    blob: Descriptor
    diff_id: Digest
    created: str
    description: str


class Image(NamedTuple):
    """An image ready to be written: its blobs are `config` and the manifest's layers. `notes` are annotations
    for what names it."""

    manifest: Manifest
    config: bytes
    platform: Platform
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def descriptor(self) -> Descriptor:
        return self.manifest.descriptor._replace(annotations=self.notes)


def assemble(
    config: bytes,
    layers: Sequence[ImageLayer],
    platform: Platform,
    *,
    inline_cache: str | None = None,
    epoch_s: int | None = None,
    base_history: Sequence[Mapping[str, Any]] = (),
    docker: bool = False,
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """Make the image of `layers`, lowest first, and of the frontend's `config`.

    `inline_cache` is the base64 of the cache records; None leaves the field out. `epoch_s` is
    SOURCE_DATE_EPOCH: no time of the image that the base image did not bring is later.
    """
    fields = json.loads(config)
    for name in ("os", "architecture"):
        if not fields.get(name):
            raise ExportError(f"the image config has no {name}, so no image can be made of it")
    history = complete_history(fields.get("history") or [], layers)
    if epoch_s is not None:
        _clamp(fields, history, base_history, epoch_s)
    fields["history"] = history or None
    fields["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers] or None}
    if "created" not in fields:
        times = [entry["created"] for entry in history if entry.get("created")]
        fields["created"] = times[-1] if times else None
    if inline_cache is not None:
        fields[INLINE_CACHE] = inline_cache
    raw = dumps({name: fields[name] for name in sorted(fields)}).encode()
    return Image(_manifest(raw, layers, annotations or {}, docker=docker), raw, platform)


def complete_history(
    history: Sequence[Mapping[str, Any]], layers: Sequence[ImageLayer]
) -> list[dict[str, Any]]:
    """Give every layer one non-empty history entry, and every entry a time.

    Fewer of them than layers would kill a BuildKit daemon that reads an inline cache from the image
    (cache/remotecache/import.go), so missing ones are made from the layers, and surplus ones become empty.
    """
    entries: list[dict[str, Any]] = []
    used = 0
    for entry in history:
        empty = bool(entry.get("empty_layer")) or used >= len(layers)
        used += not empty
        entries.append({**entry, "empty_layer": True} if empty else dict(entry))
    entries += [
        {
            "created": layer.created,
            "created_by": layer.description or "created by inlay",
            "comment": "buildkit.exporter.image.v0",
        }
        for layer in layers[used:]
    ]
    filled = iter(layers)
    for entry in entries:
        if not entry.get("empty_layer"):
            layer = next(filled)
            if not entry.get("created") and layer.created:
                entry["created"] = layer.created
    _fill_times(entries)
    return [_in_order(entry) for entry in entries]


def _fill_times(entries: list[dict[str, Any]]) -> None:
    """Give entries without a time the one of the layer before, or of the first new layer."""
    created, gap = "", False
    for entry in entries:
        if entry.get("created"):
            created = entry["created"]
            if gap:
                break
        else:
            gap = True
    gap = False
    for entry in entries:
        if entry.get("created"):
            if gap:
                created = entry["created"]
        else:
            gap = True
            if created:
                entry["created"] = created


def _in_order(entry: Mapping[str, Any]) -> dict[str, Any]:
    names = ("created", "created_by", "author", "comment", "empty_layer")
    return {name: entry[name] for name in names if entry.get(name)}


def _clamp(
    fields: dict[str, Any],
    history: list[dict[str, Any]],
    base_history: Sequence[Mapping[str, Any]],
    epoch_s: int,
) -> None:
    epoch_ns, epoch = epoch_s * 10**9, format_ns(epoch_s * 10**9)
    of_base = True
    for position, entry in enumerate(history):
        of_base = of_base and position < len(base_history) and entry == _in_order(base_history[position])
        created = parse_ns(entry.get("created", ""))
        if not of_base and (created is None or created > epoch_ns):
            entry["created"] = epoch
            history[position] = _in_order(entry)
    created = parse_ns(fields.get("created") or "")
    if created is not None and created > epoch_ns:
        fields["created"] = epoch


def _manifest(
    config: bytes, layers: Sequence[ImageLayer], annotations: Mapping[str, str], *, docker: bool
) -> Manifest:
    config_descriptor = Descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, Digest.of(config), len(config))
    blobs = tuple(_public(layer.blob, docker=docker) for layer in layers)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
        "config": config_descriptor.to_json(),
        "layers": [blob.to_json() for blob in blobs],
    }
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    raw = dumps_indented(document).encode()
    return Manifest(raw, document["mediaType"], config_descriptor, blobs)


def _public(blob: Descriptor, *, docker: bool) -> Descriptor:
    """The descriptor as it stands in a manifest: without what only builders need."""
    media_types = TO_DOCKER if docker else TO_OCI
    annotations = tuple(
        (name, value)
        for name, value in blob.annotations
        if name not in _INTERNAL_ANNOTATIONS and not name.startswith(_INTERNAL_PREFIXES)
    )
    return Descriptor(
        media_types.get(blob.media_type, blob.media_type),
        blob.digest,
        blob.size,
        () if docker else annotations,
    )


def assemble_index(
    images: Sequence[Image], *, docker: bool = False, annotations: Mapping[str, str] | None = None
) -> Index:
    """The index of one image per platform, in the order given."""
    manifests = tuple(image.descriptor._replace(platform=image.platform) for image in images)
    media_type = DOCKER_LIST if docker else OCI_INDEX
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [descriptor.to_json() for descriptor in manifests],
    }
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    return Index(dumps_indented(document).encode(), media_type, manifests)
