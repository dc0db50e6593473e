"""From directories, and from what is planned, to blobs."""

from __future__ import annotations

from inlay.digest import Digest
from inlay.errors import BlobNotFound
from inlay.refs.ref import Ref
from inlay.tasks import gather, in_thread, spawn
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.archive.codecs import Codec
    from inlay.archive.packing import PackedLayer
    from inlay.archive.planned import PlannedLayer
    from inlay.content.store import ContentStore
    from inlay.refs.availability import Availability
    from inlay.refs.mounted import Mounted
    from inlay.refs.ref import Layer
    from inlay.refs.table import LayerTable
    from inlay.refs.unpacking import Unpacking
    from inlay.snapshot.snapshotter import Incoming, LayerDir, Snapshotter
    from inlay.tasks import Limiter, Task


class Packing:
    """Packs each layer once, however many trees it is in. No file is packed as newer than `mtime_limit_ns()`."""

    def __init__(
        self,
        table: LayerTable,
        availability: Availability,
        unpacking: Unpacking,
        mounted: Mounted,
        *,
        content: ContentStore,
        snapshotter: Callable[[], Snapshotter],
        disk: Limiter,
        mtime_limit_ns: Callable[[], int | None],
    ) -> None:
        self._table = table
        self._availability = availability
        self._unpacking = unpacking
        self._mounted = mounted
        self._content = content
        self._snapshotter = snapshotter
        self._disk = disk
        self._mtime_limit_ns = mtime_limit_ns
        self._packed: set[Layer] = set()
        self._tasks: dict[str, Task[PackedLayer]] = {}
        """By the layers' keys."""

    async def blobs(self, ref: Ref, codec: Codec) -> None:
        """Make sure that every layer has a blob; packs those that are only directories."""
        packing = [layer for layer in ref.layers if layer.blob is None or layer not in self._packed]
        await gather([spawn(self.pack(layer, codec)) for layer in packing])
        self._packed.update(packing)

    async def pack(self, layer: Layer, codec: Codec) -> None:
        """Make sure that `layer` has a blob, here or elsewhere, and a diff id."""
        elsewhere = layer.source is not None or (
            layer.blob is not None and self._content.has_blob(layer.blob)
        )
        if layer.blob is None or not elsewhere:
            if layer.key not in self._tasks:
                self._tasks[layer.key] = spawn(self._pack(layer, codec))
            layer.blob, layer.diff_id = await self._tasks[layer.key]
        elif layer.diff_id is None:
            await self._unpacking.directories(Ref((layer,)))

    async def write(
        self, planned: PlannedLayer, *, base: Ref, codec: Codec | None, mounted: bool
    ) -> tuple[PackedLayer | None, LayerDir | None]:
        """Make a layer of what it is planned to be, in one pass over its files: a blob by `codec`, and a
        directory to lie on `base` if it is to be mounted.

        Raises `SourceError` for a file that cannot be read, `ContentError` for one that changes meanwhile.
        """
        roots = await self._unpacking.directories(base) if mounted else []
        incoming: Incoming | None = None
        if mounted:
            incoming = await in_thread(self._snapshotter().receive, discard=lambda made: made.discard())
        try:
            if incoming is not None and roots:
                from inlay.snapshot.snapshotter import copy_root_looks

                copy_root_looks(self._snapshotter().upper(roots[-1]), incoming.directory)
            packed = await in_thread(
                self._write_planned,
                planned,
                codec,
                incoming.directory if incoming is not None else "",
                limiter=self._disk,
            )
            return packed, incoming.commit() if incoming is not None else None
        finally:
            if incoming is not None:
                incoming.discard()

    def forget_failures(self) -> None:
        """What failed may be tried again."""
        self._tasks = {key: task for key, task in self._tasks.items() if task.succeeded}

    async def _pack(self, layer: Layer, codec: Codec) -> PackedLayer:
        from inlay.archive.packing import PackedLayer

        row = self._table.layer(layer.key)
        if row is not None and (blob := row.descriptor()) is not None and self._content.has_blob(blob):
            return PackedLayer(blob, Digest.parse(row.diff_id))
        if layer.directory is None:
            raise BlobNotFound(f"layer {layer.key} is no longer in the store")
        base = Ref(tuple(self._availability.recall(key) for key in layer.base))
        lower = (await self._mounted.view(base)).fd if layer.base else None
        packed = await self._write_blob(layer.directory, lower, codec)
        layer.blob, layer.diff_id = packed
        self._table.save(layer)
        return packed

    async def _write_blob(self, directory: LayerDir, lower: int | None, codec: Codec) -> PackedLayer:
        from inlay.archive.diff import layer_entries
        from inlay.archive.packing import pack_layer

        limit_ns = self._mtime_limit_ns()

        def write() -> PackedLayer:
            entries = layer_entries(self._snapshotter().upper(directory), lower=lower)
            return pack_layer(entries, self._content, codec, mtime_limit_ns=limit_ns)

        return await in_thread(write, limiter=self._disk)

    def _write_planned(
        self, planned: PlannedLayer, codec: Codec | None, directory: str
    ) -> PackedLayer | None:
        from inlay.archive.layer import apply_entries
        from inlay.archive.packing import pack_layer
        from inlay.trees.sourcefile import Sources

        with Sources() as sources:
            entries = planned.entries(sources)
            if codec is None:
                apply_entries(entries, directory)
                return None
            limit_ns = self._mtime_limit_ns()
            return pack_layer(entries, self._content, codec, mtime_limit_ns=limit_ns, directory=directory)
