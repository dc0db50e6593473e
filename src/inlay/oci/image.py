"""Manifests, indexes and image configs (OCI image spec; Docker's schema 2 has the same shape).

A parsed value keeps the raw bytes it came from: digests are taken of those, never of bytes written again.
"""

from __future__ import annotations

from inlay import json
from inlay.digest import Digest
from inlay.errors import ContentError
from inlay.oci.descriptor import INDEXES, MANIFESTS, OCI_MANIFEST, Descriptor
from inlay.platform import Platform, normalise
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

INLINE_CACHE = "moby.buildkit.cache.v0"
"""The image config's field that carries an inline cache (BuildKit: exporter/containerimage/writer.go)."""
INLINE_CACHE_PROPOSED = "moby.buildkit.buildcache"
"""The name under which the feature was first proposed; read, never written."""


MOST_VALUES = 200_000
"""A document of more JSON values is not decoded, however few its bytes: they take up to 250 bytes each."""
_NO_VALUE = bytes({*range(256)} - {*b",[{"})


class Manifest(NamedTuple):
    """One image for one platform, or one cache: a config and layers, lowest first."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))


class Index(NamedTuple):
    """A list of manifests, one for each platform; or, as BuildKit writes caches, of any blobs."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))


class ImageConfig(NamedTuple):
    """An image config: `fields` is the whole JSON object, `raw` the bytes it came from."""

    raw: bytes
    fields: dict[str, Any]

    @classmethod
    def parse(cls, raw: bytes) -> ImageConfig:
        return cls(raw, parse_object(raw, "image config"))

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    @property
    def platform(self) -> Platform:
        return normalise(Platform.from_json(self.fields))

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """Digests of the uncompressed layers, lowest first. Raises `ContentError`, `UsageError`."""
        rootfs = self.fields.get("rootfs")
        ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(ids, list | None):
            raise ContentError("the diff_ids of the image config are not a list")
        return tuple(Digest.parse(text) for text in ids or ())

    @property
    def chain_id(self) -> Digest | str:
        """Names the stack of all layers; empty where there are none, or the config is of another kind."""
        rootfs = self.fields.get("rootfs")
        is_layers = isinstance(rootfs, dict) and rootfs.get("type") == "layers"
        return chain_id(self.diff_ids) if is_layers and self.diff_ids else ""

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        entries = self.fields.get("history")
        if not isinstance(entries, list):
            return ()
        return tuple(entry for entry in entries if isinstance(entry, dict))

    @property
    def layer_history(self) -> tuple[dict[str, Any], ...]:
        """The history entries that stand for a layer, in the order of the layers."""
        return tuple(entry for entry in self.history if not entry.get("empty_layer"))


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """Decode a JSON object; raise `ContentError` that names `what` it should have been.

    Escapes of half a character become U+FFFD, as with Go, so that all text can be written again.
    """
    if count_values(raw) > MOST_VALUES:
        raise ContentError(f"the {what} has more than {MOST_VALUES:,} JSON values")
    try:
        value = json.loads(raw)
        if b"\\ud" in raw or b"\\uD" in raw:
            value = _whole_text(value)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"the {what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ContentError(f"the {what} is not a JSON object")
    return value


def _whole_text(value: Any) -> Any:
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in value)
    if isinstance(value, list):
        return [_whole_text(item) for item in value]
    if isinstance(value, dict):
        return {_whole_text(name): _whole_text(field) for name, field in value.items()}
    return value


def count_values(raw: bytes) -> int:
    """How many JSON values `raw` has at most; those of less than `MOST_VALUES` bytes are not counted."""
    return len(raw.translate(None, _NO_VALUE)) + 1 if len(raw) > MOST_VALUES else len(raw)


def parse_manifest(raw: bytes, media_type: str = "") -> Manifest | Index:
    """Decode a manifest or an index.

    `media_type` is what the registry or descriptor said of it; the document's own field wins. Old OCI
    documents have none: then it is told by its fields.
    """
    value = parse_object(raw, "manifest")
    media_type = str(value.get("mediaType") or media_type)
    notes = value.get("annotations")
    annotations = tuple(sorted((str(k), str(v)) for k, v in notes.items())) if isinstance(notes, dict) else ()
    if media_type in INDEXES or (media_type not in MANIFESTS and "manifests" in value):
        return Index(raw, media_type or INDEXES[0], _descriptors(value.get("manifests")), annotations)
    if "config" not in value:
        raise ContentError(f"a manifest of type {media_type or 'unknown'} is none that inlay can read")
    subject = value.get("subject")
    return Manifest(
        raw,
        media_type or OCI_MANIFEST,
        Descriptor.parse(value["config"]),
        _descriptors(value.get("layers")),
        Descriptor.parse(subject) if subject else None,
        annotations,
    )


def _descriptors(values: object) -> tuple[Descriptor, ...]:
    if not isinstance(values, list | None):
        raise ContentError("a manifest's list of blobs is not a list")
    return tuple(Descriptor.parse(value) for value in values or ())


def chain_id(diff_ids: Iterable[Digest]) -> Digest:
    """Name a stack of layers, lowest first (OCI image spec, "Layer ChainID"). Of none: `EMPTY`'s digest."""
    chain = Digest("")
    for diff_id in diff_ids:
        chain = Digest.of(f"{chain} {diff_id}") if chain else diff_id
    return chain or Digest.of(b"")


def choose_platform(index: Index, platform: Platform) -> Descriptor | None:
    """The manifest of `index` that fits `platform` best, as containerd picks; None where none fits."""
    from inlay.platform import match_rank

    fitting = [
        (rank, position, descriptor)
        for position, descriptor in enumerate(index.manifests)
        if descriptor.platform is not None and (rank := match_rank(platform, descriptor.platform)) is not None
    ]
    return min(fitting)[2] if fitting else None


def image_platforms(index: Index) -> Sequence[Platform]:
    """The platforms that `index` offers, attestations left out."""
    return [d.platform for d in index.manifests if d.platform is not None and d.platform.os != "unknown"]
