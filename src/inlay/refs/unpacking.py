"""From blobs to directories."""

from __future__ import annotations

from inlay.errors import BlobLost, ContentError, DigestMismatch, SolveError, system_error
from inlay.refs.ref import Ref
from inlay.tasks import gather, in_thread, spawn
from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.archive.layer import AppliedLayer
    from inlay.archive.untar import Source as ByteSource
    from inlay.content import ContentStore
    from inlay.oci.descriptor import Descriptor
    from inlay.refs.availability import Availability
    from inlay.refs.ref import Layer
    from inlay.refs.table import LayerTable
    from inlay.snapshot.snapshotter import LayerDir, Snapshotter
    from inlay.tasks import Limiter, Task


class Unpacking:
    """Unpacks each layer once, however many trees it is in."""

    def __init__(
        self,
        table: LayerTable,
        availability: Availability,
        content: ContentStore,
        snapshotter: Callable[[], Snapshotter],
        disk: Limiter,
    ) -> None:
        self._table = table
        self._availability = availability
        self._content = content
        self._snapshotter = snapshotter
        self._disk = disk
        self._tasks: dict[str, Task[LayerDir]] = {}
        """By the layers' keys."""

    async def directories(self, ref: Ref) -> list[LayerDir]:
        """Unpack what is not unpacked yet; pulls what is not here."""
        layers = ref.layers
        there = [layer.directory for layer in layers if layer.directory is not None]
        if len(there) == len(layers):
            return there
        return await gather([spawn(self._directory(layer, layers[:n])) for n, layer in enumerate(layers)])

    def forget_failures(self) -> None:
        """What failed may be tried again."""
        self._tasks = {key: task for key, task in self._tasks.items() if task.succeeded}

    async def _directory(self, layer: Layer, below: Sequence[Layer]) -> LayerDir:
        if layer.directory is not None:
            return layer.directory
        if layer.key not in self._tasks:
            self._tasks[layer.key] = spawn(self._unpack(layer, below))
        layer.directory = await self._tasks[layer.key]
        return layer.directory

    async def _unpack(self, layer: Layer, below: Sequence[Layer]) -> LayerDir:
        for known in self._table.directories(layer.diff_id) if layer.diff_id else ():
            if self._availability.has_directory(known):
                return known
        blob = await self._availability.fetch(layer)
        try:
            return await self._unpack_blob(blob, layer, below)
        except ContentError as error:
            if isinstance(error, BlobLost):
                raise
            raise self._availability.lost(layer, error) from error

    async def _unpack_blob(self, blob: Descriptor, layer: Layer, below: Sequence[Layer]) -> LayerDir:
        incoming = await in_thread(self._snapshotter().receive)
        try:
            applied = await in_thread(self._apply, blob, incoming.directory, limiter=self._disk)
            if layer.diff_id and layer.diff_id != applied.diff_id:
                raise DigestMismatch(
                    f"layer {blob.digest} unpacks to {applied.diff_id}, but its image says {layer.diff_id}"
                )
            if applied.implied:
                await self._inherit(incoming.directory, applied.implied, below)
            layer.diff_id, layer.directory = applied.diff_id, incoming.commit()
        finally:
            incoming.discard()
        self._table.save(layer)
        return layer.directory

    async def _inherit(self, directory: str, implied: Sequence[bytes], below: Sequence[Layer]) -> None:
        """Folders that the layer has only by implication look as they do in the layers below it."""
        from inlay.archive.layer import inherit_implied

        parents = [self._snapshotter().upper(each) for each in await self.directories(Ref(tuple(below)))]
        await in_thread(inherit_implied, directory, implied, parents, limiter=self._disk)

    def _apply(self, blob: Descriptor, directory: str) -> AppliedLayer:
        from inlay.archive.compression import decompress
        from inlay.archive.layer import Limits, apply_layer

        with self._content.open_blob(blob) as packed:
            stream = decompress(cast("ByteSource", packed))
            try:
                return apply_layer(stream, directory, limits=Limits.for_blob(blob.size))
            except ContentError as error:
                raise type(error)(f"layer {blob.digest} cannot be unpacked: {error}") from error
            except OSError as error:  # no fault of the layer, which is there and whole
                raise SolveError(f"layer {blob.digest} cannot be unpacked: {system_error(error)}") from error
