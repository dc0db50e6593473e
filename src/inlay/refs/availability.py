"""Which layers can be had: what is in the store, what a registry still has, and what was found to be lost."""

from __future__ import annotations

from inlay import json
from inlay.digest import Digest
from inlay.errors import (
    BlobLost,
    BlobNotFound,
    CacheError,
    ContentError,
    DigestMismatch,
    RegistryError,
    is_no_room,
)
from inlay.refs.ref import Layer, whereabouts
from inlay.tasks import Limiter, gather, in_thread, spawn
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.content.arrival import Arrival
    from inlay.content.store import BlobSource, ContentStore
    from inlay.oci.descriptor import Descriptor
    from inlay.refs.ref import Ref, Source
    from inlay.refs.table import LayerTable
    from inlay.snapshot.snapshotter import LayerDir, Snapshotter


class Availability:
    """Looks without fetching, and fetches. A cached result whose layers are gone costs a step, never a build."""

    def __init__(
        self,
        table: LayerTable,
        content: ContentStore,
        snapshotter: Callable[[], Snapshotter],
        open_source: Callable[[str], Source | None],
        warn: Callable[[str], None],
    ) -> None:
        self._table = table
        self._content = content
        self._snapshotter = snapshotter
        self._open_source = open_source
        self._warn = warn
        self._sound: set[Layer] = set()
        """Layers that can be had, as was found in this build."""
        self._touched: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        """Blobs that a place was found to have in this build: (location, digest)."""
        self._cached: set[tuple[str, str]] = set()
        """Layers that came with a cached result, and can be made again."""
        self._lost: set[tuple[str, str]] = set()
        self._missing: dict[tuple[str, str], str] = {}
        """Why a place cannot give what a cached result needs of it. It was told, and is not asked for again."""
        self._network = Limiter(4)

    def has_directory(self, directory: LayerDir) -> bool:
        return self._snapshotter().exists(directory)

    def expect(self, layer: Layer) -> None:
        """Take note that a layer comes with a cached result: where it is lost, its step runs."""
        self._cached.add(whereabouts(layer))

    def recall(self, key: str, created: str = "", description: str = "") -> Layer:
        """A layer of an earlier build. Raises `CacheError` where neither the store nor a place has it."""
        row = self._table.layer(key)
        if row is None:
            raise CacheError(f"layer {key} is no longer in the store")
        layer = Layer(
            key,
            blob=row.descriptor(),
            diff_id=Digest.parse(row.diff_id) if row.diff_id else None,
            directory=row.directory if row.directory and self.has_directory(row.directory) else None,
            source=self._open_source(row.source) if row.source else None,
            created=created,
            description=description,
            base=tuple(json.loads(row.base)),
        )
        self.expect(layer)
        here = layer.directory is not None or (layer.blob is not None and self._content.has_blob(layer.blob))
        if not here and (layer.source is None or layer.blob is None):
            raise CacheError(f"layer {key} is no longer in the store")
        return layer

    async def check(self, ref: Ref) -> None:
        """Make sure that every layer can still be had, without fetching any. Raises `CacheError`."""
        await gather([spawn(self._check(layer)) for layer in ref.layers if layer not in self._sound])
        self._sound.update(ref.layers)

    async def _check(self, layer: Layer) -> None:
        self._touch(layer)
        if layer.directory is not None or layer.blob is None:
            return
        here = whereabouts(layer)
        if here in self._lost:
            raise CacheError(f"layer {layer.key} cannot be had")
        if self._content.has_blob(layer.blob):
            return
        if layer.source is None:
            raise CacheError(f"layer {layer.key} is no longer in the store")
        if here in self._seen:
            return
        if here in self._missing:
            raise CacheError(self._missing[here])
        try:
            source, abort = _abortable(layer.source.blobs)
            found = await in_thread(source.has_blob, layer.blob, limiter=self._network, abort=abort)
        except (RegistryError, ContentError, OSError) as error:
            raise self._without(here, f"layer {layer.key} cannot be had: {error}") from error
        if not found:
            raise self._without(here, f"layer {layer.key} is no longer at {layer.source.location}")
        self._seen.add(here)

    def _without(self, here: tuple[str, str], why: str) -> CacheError:
        """What it means that a place does not have a layer; the first time, it is told."""
        if here not in self._missing:
            self._missing[here] = why
            self._warn(f"{why}; cached results that need it are not used")
        return CacheError(why)

    def _touch(self, layer: Layer) -> None:
        """Note when a layer was last used: what was not for long can be deleted first."""
        if layer.key in self._touched:
            return
        self._touched.add(layer.key)
        if layer.directory is not None:
            self._snapshotter().touch(layer.directory)
        if layer.blob is not None:
            self._content.touch(layer.blob.digest)

    async def fetch(self, layer: Layer, read: Callable[[Arrival], None] | None = None) -> Descriptor:
        """Bring the layer's blob into the store; `read` may look at it meanwhile, as in `ContentStore.fetch`.

        Raises `BlobLost` where it came with a cached result, else `BlobNotFound` and what the place of the blob
        raises."""
        blob = layer.blob
        if blob is None:
            raise BlobNotFound(f"layer {layer.key} has no blob")
        if not self._content.has_blob(blob):
            try:
                if layer.source is None:
                    raise BlobNotFound(f"layer {blob.digest} is not in the store, and nobody else has it")
                source, abort = _abortable(layer.source.blobs)
                await in_thread(self._content.fetch, blob, source, read, limiter=self._network, abort=abort)
            except (ContentError, RegistryError) as error:
                raise self.lost(layer, error) from error
        return blob

    def lost(self, layer: Layer, error: Exception) -> Exception:
        """`error`, or what it means where the layer came with a cached result."""
        location, digest = here = whereabouts(layer)
        if here not in self._cached or is_no_room(error.__cause__):
            return error
        if isinstance(error, DigestMismatch) and layer.blob is not None:
            self._content.delete(layer.blob.digest)
        where = location or "the store"
        return BlobLost(
            f"layer {digest} of a cached result cannot be had from {where} ({error})",
            location=location,
            digest=digest,
        )

    def can_be_made_again(self, error: BlobLost) -> bool:
        """Whether a blob is a cached result's that this build has loaded, and was not given up."""
        here = (error.location, error.digest)
        return here in self._cached and here not in self._lost

    def give_up(self, error: BlobLost) -> bool:
        """Count a blob as lost: no result that needs it is loaded from now on. False where
        that is known already, or it is no cached result's, so that trying again is of no use."""
        if not self.can_be_made_again(error):
            return False
        self._lost.add((error.location, error.digest))
        self._sound.clear()
        return True


def _abortable(blobs: BlobSource) -> tuple[BlobSource, Callable[[], None] | None]:
    """`blobs`, and what ends calls of it, where they can be ended: those of a registry."""
    within = getattr(blobs, "within", None)
    if within is None:
        return blobs, None
    from inlay.registry.dial import Abort

    abort = Abort()
    return within(abort), abort
