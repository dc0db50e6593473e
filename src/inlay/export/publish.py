"""Writing images where they were asked for: registries, the local store, OCI layouts and archives.

A registry's repository and a layout folder take blobs and manifests in the same way; what is not there yet
goes, everything else stays. A manifest goes last, so that nobody sees an image whose blobs are missing.
"""

from __future__ import annotations

import io

from inlay.errors import BlobLost, BlobNotFound, ContentError, DigestMismatch, RegistryError
from inlay.oci.image import Manifest
from inlay.tasks import Limiter, gather, in_thread, spawn
from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from inlay.content.store import ContentStore
    from inlay.digest import Digest
    from inlay.export.image import Image
    from inlay.oci.descriptor import Descriptor
    from inlay.oci.image import Index
    from inlay.refs.ref import Layer, Source


class Destination(Protocol):
    """A `Repository` or a `LayoutFolder`."""

    def push_blob(
        self,
        descriptor: Descriptor,
        open_source: Callable[[], BinaryIO],
        *,
        mount_from: str = "",
        is_new: bool = False,
    ) -> str: ...

    def push_manifest(self, raw: bytes, media_type: str, ref: str = "") -> Descriptor: ...

    def fetch_manifest(self, ref: str) -> Manifest | Index: ...

    def referrers(self, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]: ...

    def push_referrer(
        self, raw: bytes, referrer: Descriptor, subject: Digest, replaced: Sequence[Descriptor] = ()
    ) -> None: ...


class Blob(NamedTuple):
    """A blob of an image and how to read it; `location` is the place that has it, if not the store. One that
    `is_new` was made just now."""

    descriptor: Descriptor
    open: Callable[[], BinaryIO]
    location: str = ""
    is_new: bool = False


def layer_blob(layer: Layer, content: ContentStore) -> Blob:
    """The layer's blob, from the store or streamed from the place that has it."""
    if layer.blob is None:
        raise BlobNotFound(f"layer {layer.key} is not packed")
    return stored_blob(layer.blob, layer.source, content)


def stored_blob(descriptor: Descriptor, source: Source | None, content: ContentStore) -> Blob:
    """A blob that the store or `source` has. Whoever takes it in verifies it, so it is not done here too."""
    if content.has_blob(descriptor) or source is None:
        return Blob(descriptor, lambda: content.open_blob(descriptor, verify=False))

    def open_there() -> BinaryIO:
        try:
            return source.blobs.open_blob(descriptor, verify=False)
        except (ContentError, RegistryError) as error:
            raise _lost(descriptor, source.location, error) from error

    return Blob(descriptor, open_there, source.location)


def _lost(descriptor: Descriptor, location: str, error: Exception) -> BlobLost:
    digest = str(descriptor.digest)
    said = f"layer {digest} cannot be had from {location} ({error})"
    return BlobLost(said, location=location, digest=digest)


def bytes_blob(descriptor: Descriptor, data: bytes) -> Blob:
    return Blob(descriptor, lambda: cast("BinaryIO", io.BytesIO(data)))


def layer_blobs(layers: Sequence[Layer], content: ContentStore) -> list[Blob]:
    """The blobs of an image's layers, each once."""
    blobs = {layer.blob.digest: layer_blob(layer, content) for layer in layers if layer.blob is not None}
    return list(blobs.values())


def config_blob(image: Image) -> Blob:
    return bytes_blob(image.manifest.config, image.config)._replace(is_new=True)


def image_blobs(image: Image, layers: Sequence[Layer], content: ContentStore) -> list[Blob]:
    """All blobs of `image`, the config last."""
    return [*layer_blobs(layers, content), config_blob(image)]


async def push_blobs(
    destination: Destination,
    blobs: Sequence[Blob],
    limiter: Limiter,
    *,
    location: str = "",
    host: str = "",
    abort: Callable[[], None] | None = None,
) -> None:
    """Bring `blobs` to `destination`, several at a time. What came from there (`location`) is there.

    Raises `BlobLost` for one whose own place no longer has it.
    """

    def push(blob: Blob) -> None:
        mount_from = ""
        if host and blob.location.startswith(f"registry:{host}/"):
            mount_from = blob.location.removeprefix(f"registry:{host}/")
        try:
            destination.push_blob(blob.descriptor, blob.open, mount_from=mount_from, is_new=blob.is_new)
        except DigestMismatch as error:
            if not blob.location:
                raise
            raise _lost(blob.descriptor, blob.location, error) from error

    wanted = [blob for blob in blobs if not location or blob.location != location]
    await gather([spawn(in_thread(push, blob, limiter=limiter, abort=abort)) for blob in wanted])


async def push_images(
    destination: Destination,
    images: Sequence[Image],
    index: Index | None,
    refs: Sequence[str],
) -> Descriptor:
    """Push the manifests under each of `refs` (tags, or full names in a layout); return the top descriptor."""
    for image in images if index is not None else ():
        await in_thread(destination.push_manifest, image.manifest.raw, image.manifest.media_type)
    top = index if index is not None else images[0].manifest
    for ref in refs or ("",):
        await in_thread(destination.push_manifest, top.raw, top.media_type, ref)
    return top.descriptor


class Referrer(NamedTuple):
    """A manifest of `layers` and a `config` whose subject is an image: `raw`, described by `descriptor`."""

    subject: Digest
    raw: bytes
    descriptor: Descriptor
    layers: Sequence[Blob]
    config: Blob


async def push_referrer(
    destination: Destination, referrer: Referrer, limiter: Limiter, *, location: str = "", host: str = ""
) -> None:
    """Bring `referrer` to `destination`, in the place of older ones of its type and subject. One that has all
    its layers and more stays, and nothing is pushed."""
    subject, descriptor = referrer.subject, referrer.descriptor
    older = await in_thread(destination.referrers, subject, descriptor.artifact_type)
    layers = {blob.descriptor.digest for blob in referrer.layers}
    for each in older:
        if each.digest == descriptor.digest:
            return
        manifest = await in_thread(destination.fetch_manifest, each.digest)
        if isinstance(manifest, Manifest) and layers < {layer.digest for layer in manifest.layers}:
            return
    blobs = [*referrer.layers, referrer.config]
    await push_blobs(destination, blobs, limiter, location=location, host=host)
    await in_thread(destination.push_referrer, referrer.raw, descriptor, subject, older)
