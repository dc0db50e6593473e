"""`force-compression=true`: layers in the wanted compression, whatever they came in.

What was converted once is remembered beside the layers, and found again while its blob is there.
BuildKit: cache/compression.go, util/compression.
"""

from __future__ import annotations

import json

from inlay.digest import Digest
from inlay.errors import ContentError, DigestMismatch
from inlay.oci.descriptor import TO_DOCKER, TO_OCI, Descriptor
from inlay.refs.ref import Layer, Ref
from inlay.tasks import Limiter, Task, gather, in_thread, spawn
from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import sqlite3

    from inlay.archive.codecs import Codec
    from inlay.archive.untar import ByteSource
    from inlay.content.store import ContentStore
    from inlay.refs.store import RefStore

_SCHEMA = """
CREATE TABLE IF NOT EXISTS variant (
    blob TEXT NOT NULL,         -- digest of the blob that was converted
    media_type TEXT NOT NULL,   -- what it was converted to
    variant TEXT NOT NULL,      -- digest and size as JSON
    PRIMARY KEY (blob, media_type)
) WITHOUT ROWID
"""


class Recompressor:
    """Converts layers to one codec, each once. Lives on the loop's thread; the work is done on others."""

    def __init__(
        self, refs: RefStore, content: ContentStore, database: sqlite3.Connection, codec: Codec
    ) -> None:
        self._refs = refs
        self._content = content
        self._database = database
        self._codec = codec
        self._converting: dict[str, Task[Descriptor]] = {}
        self._disk = Limiter(2)
        database.execute(_SCHEMA)

    async def convert(self, ref: Ref) -> Ref:
        """`ref`, each of whose layers has a blob, with blobs of the codec's form. Times and descriptions stay.

        Layers of kinds that nobody knows how to convert stay as they are. Raises `ContentError`.
        """
        return Ref(tuple(await gather([spawn(self._layer(layer)) for layer in ref.layers])))

    async def _layer(self, layer: Layer) -> Layer:
        blob = layer.blob
        if blob is None:
            raise ContentError(f"layer {layer.key} is not packed")
        media_type = TO_OCI.get(blob.media_type, blob.media_type)
        if media_type == self._codec.media_type or media_type not in TO_DOCKER:
            return layer
        name = str(blob.digest)
        if name not in self._converting:
            self._converting[name] = spawn(self._converted(layer, blob))
        variant = await self._converting[name]
        return Layer(
            str(variant.digest),
            blob=variant,
            diff_id=layer.diff_id,
            directory=layer.directory,
            created=layer.created,
            description=layer.description,
        )

    async def _converted(self, layer: Layer, blob: Descriptor) -> Descriptor:
        row = self._database.execute(
            "SELECT variant FROM variant WHERE blob = ? AND media_type = ?",
            (blob.digest, self._codec.media_type),
        ).fetchone()
        if row is not None:
            digest, size = json.loads(row[0])
            known = Descriptor(self._codec.media_type, Digest.parse(digest), size)
            if self._content.has_blob(known):
                return known
        await self._refs.availability.fetch(layer)
        variant = await in_thread(self._write, blob, layer.diff_id, limiter=self._disk)
        self._database.execute(
            "INSERT OR REPLACE INTO variant VALUES (?, ?, ?)",
            (blob.digest, variant.media_type, json.dumps([variant.digest, variant.size])),
        )
        return variant

    def _write(self, blob: Descriptor, diff_id: Digest | None) -> Descriptor:
        from inlay.archive.compression import BLOCK_SIZE, BlobWriter, decompress

        buffer = memoryview(bytearray(BLOCK_SIZE))
        with self._content.open_blob(blob) as packed, self._content.ingest(digested=True) as ingest:
            with BlobWriter(ingest, self._codec) as out:
                stream = decompress(cast("ByteSource", packed))
                while count := stream.readinto(buffer):
                    out.write(buffer[:count])
            made = out.packed
            if diff_id and made.diff_id != diff_id:
                raise DigestMismatch(f"layer {blob.digest} unpacks to {made.diff_id}, not to {diff_id}")
            ingest.commit(made.digest)
        return Descriptor(self._codec.media_type, made.digest, made.size)
