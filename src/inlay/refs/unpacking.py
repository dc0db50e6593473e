"""From blobs to directories."""

from __future__ import annotations

from inlay.errors import BlobLost, ContentError, DigestMismatch, SolveError, system_error
from inlay.refs.ref import Ref
from inlay.tasks import gather, in_thread, spawn
from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.archive.layer import AppliedLayer
    from inlay.archive.untar import ByteSource
    from inlay.content.arrival import Arrival
    from inlay.content.store import ContentStore
    from inlay.oci.descriptor import Descriptor
    from inlay.refs.availability import Availability
    from inlay.refs.ref import Layer
    from inlay.refs.table import LayerTable
    from inlay.snapshot.snapshotter import Incoming, LayerDir, Snapshotter
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
        unpacked = _Unpacked(layer, self._snapshotter())
        try:
            blob = await self._availability.fetch(layer, unpacked.read_arriving)
            try:
                if unpacked.applied is None:
                    await in_thread(unpacked.read_stored, self._content, blob, limiter=self._disk)
                return await self._keep(unpacked, layer, below)
            except ContentError as error:
                if isinstance(error, BlobLost):
                    raise
                raise self._availability.lost(layer, error) from error
        finally:
            unpacked.discard()

    async def _keep(self, unpacked: _Unpacked, layer: Layer, below: Sequence[Layer]) -> LayerDir:
        """Make the layer's directory of a blob that was unpacked, if it holds what the image says."""
        applied, incoming = unpacked.applied, unpacked.incoming
        assert applied is not None
        assert incoming is not None
        assert layer.blob is not None
        if layer.diff_id and layer.diff_id != applied.diff_id:
            raise DigestMismatch(
                f"layer {layer.blob.digest} unpacks to {applied.diff_id}, but its image says {layer.diff_id}"
            )
        if applied.implied:
            await self._inherit(incoming.directory, applied.implied, below)
        layer.diff_id, layer.directory = applied.diff_id, incoming.commit()
        self._table.save(layer)
        return layer.directory

    async def _inherit(self, directory: str, implied: Sequence[bytes], below: Sequence[Layer]) -> None:
        """Folders that the layer has only by implication look as they do in the layers below it."""
        from inlay.archive.layer import inherit_implied

        parents = [self._snapshotter().upper(each) for each in await self.directories(Ref(tuple(below)))]
        await in_thread(inherit_implied, directory, implied, parents, limiter=self._disk)


class _Unpacked:
    """A layer's blob, unpacked into a directory that is not complete before `incoming` is committed."""

    __slots__ = ("_layer", "_snapshotter", "applied", "incoming")

    def __init__(self, layer: Layer, snapshotter: Snapshotter) -> None:
        self._layer = layer
        self._snapshotter = snapshotter
        self.incoming: Incoming | None = None
        self.applied: AppliedLayer | None = None

    def read_arriving(self, arrival: Arrival) -> None:
        """Unpack the blob while it comes in. What goes wrong is for the reading of the whole blob to tell."""
        try:
            self._unpack(arrival)
        except BaseException:
            return

    def read_stored(self, content: ContentStore, blob: Descriptor) -> None:
        """Unpack a blob that is here."""
        with content.open_blob(blob) as packed:
            try:
                self._unpack(cast("ByteSource", packed))
            except ContentError as error:
                raise type(error)(f"layer {blob.digest} cannot be unpacked: {error}") from error
            except OSError as error:  # no fault of the layer, which is there and whole
                raise SolveError(f"layer {blob.digest} cannot be unpacked: {system_error(error)}") from error

    def _unpack(self, packed: ByteSource) -> None:
        from inlay.archive.compression import ReadAhead, decompress
        from inlay.archive.layer import Limits, apply_layer

        assert self._layer.blob is not None
        limits = Limits.for_blob(self._layer.blob.size)
        with ReadAhead(lambda: decompress(packed)) as stream:
            self.discard()
            self.incoming = self._snapshotter.receive()
            self.applied = apply_layer(stream, self.incoming.directory, limits=limits)

    def discard(self) -> None:
        """Delete the directory, unless it was committed."""
        if self.incoming is not None:
            self.incoming.discard()
