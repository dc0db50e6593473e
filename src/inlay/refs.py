"""Refs: what a step has made, or an image brings. The only module that knows that a tree may be blobs, a
directory or a slice of the build context.

A tree is a stack of layers, lowest first. A layer is a blob (somewhere: in the store, in a registry),
a directory in overlay form, or both; either is made of the other, or fetched, when somebody needs it.
So a cache hit is a stack of blobs that nobody has pulled, and a RUN step's result a directory that nobody
has packed. `RefStore` keeps one row per layer; it lives on the loop's thread, the work is done on others.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, Protocol

from inlay.digest import Digest
from inlay.errors import BlobNotFound, CacheError, ContentError, RegistryError
from inlay.oci.descriptor import UNCOMPRESSED, Descriptor
from inlay.tasks import Limiter, Task, gather, in_thread, spawn
from inlay.timestamp import format_ns, now_ns

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Sequence

    from inlay.archive.compression import Compression
    from inlay.content import BlobSource, ContentStore
    from inlay.oci.image import Index, Manifest
    from inlay.snapshot.snapshotter import Active, LayerDir, Snapshotter, View

SCHEMA = """
CREATE TABLE IF NOT EXISTS layer (
    key TEXT PRIMARY KEY,       -- the blob's digest, or the directory's id where the layer was made here
    diff_id TEXT NOT NULL,      -- empty until the layer is packed
    blob TEXT NOT NULL,         -- media type, digest and size as JSON; empty until packed
    directory TEXT NOT NULL,    -- the snapshot's id; empty until unpacked
    source TEXT NOT NULL        -- where the blob can be fetched from when the store has it not
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS layer_by_diff_id ON layer (diff_id);
"""


class ImagePlace(Protocol):
    """A repository, or a folder or archive in OCI layout form: what images are read from."""

    def fetch_manifest(self, name: str) -> Manifest | Index:
        """The manifest of a tag or digest, verified. Raises `NotFound` or `BlobNotFound`."""

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes: ...


class Source(Protocol):
    """A place that has images and their blobs, and a text by which a later build finds it again."""

    @property
    def location(self) -> str: ...

    @property
    def blobs(self) -> BlobSource: ...

    @property
    def images(self) -> ImagePlace: ...


class Layer:
    """One layer of one tree. `created` (RFC 3339) and `description` belong to its place in the tree: equal
    blobs may stand in an image twice, made at different times."""

    __slots__ = ("blob", "created", "description", "diff_id", "directory", "key", "source")

    def __init__(
        self,
        key: str,
        *,
        blob: Descriptor | None = None,
        diff_id: Digest | None = None,
        directory: LayerDir | None = None,
        source: Source | None = None,
        created: str = "",
        description: str = "",
    ) -> None:
        self.key = key
        self.blob = blob
        self.diff_id = diff_id
        self.directory = directory
        self.source = source
        self.created = created
        self.description = description

    def __repr__(self) -> str:
        return f"<Layer {self.key[:19]} {self.description[:40]!r}>"


class Tree(NamedTuple):
    """A file system tree: layers, lowest first. Of none, it is scratch."""

    layers: tuple[Layer, ...] = ()


SCRATCH = Tree()
"""The empty tree."""


class RefStore:
    """All layers that this root knows, and the work of turning one form of a layer into the other."""

    def __init__(
        self,
        database: sqlite3.Connection,
        content: ContentStore,
        snapshotter: Callable[[], Snapshotter],
        open_source: Callable[[str], Source | None],
        *,
        on_transfer: Callable[[Descriptor, int], None] = lambda descriptor, count: None,
    ) -> None:
        """`snapshotter` is called when a directory is needed for the first time, if ever."""
        self._database = database
        self._content = content
        self._make_snapshotter = snapshotter
        self._snapshotter: Snapshotter | None = None
        self._open_source = open_source
        self._on_transfer = on_transfer
        self._unpacking: dict[str, Task[LayerDir]] = {}
        self._packing: dict[tuple[str, Compression], Task[Descriptor]] = {}
        self._views: dict[tuple[str, ...], Task[View]] = {}
        self._disk = Limiter(2)
        self._network = Limiter(4)
        database.executescript(SCHEMA)

    @property
    def snapshotter(self) -> Snapshotter:
        if self._snapshotter is None:
            self._snapshotter = self._make_snapshotter()
        return self._snapshotter

    # -- layers come in ---------------------------------------------------------------------------

    def add_blob(
        self,
        blob: Descriptor,
        diff_id: Digest,
        source: Source | None,
        *,
        created: str = "",
        description: str = "",
    ) -> Layer:
        """A layer that is a blob somewhere. Nothing is fetched."""
        row = self._row(blob.digest)
        if row is None:
            self._save(str(blob.digest), diff_id, blob, "", source.location if source else "")
        layer = Layer(str(blob.digest), blob=blob, diff_id=diff_id, source=source)
        layer.created, layer.description = created, description
        layer.directory = row[3] if row and row[3] and self.snapshotter_has(row[3]) else None
        return layer

    def add_directory(self, directory: LayerDir, *, description: str, created_ns: int | None = None) -> Layer:
        """A layer that a step has just made."""
        created = format_ns(now_ns() if created_ns is None else created_ns)
        layer = Layer(directory, directory=directory, created=created, description=description)
        self._save(directory, None, None, directory, "")
        return layer

    # -- results of records -----------------------------------------------------------------------

    @staticmethod
    def describe(tree: Tree) -> str:
        """Name `tree` so that a later build can `recall` it."""
        return json.dumps([(layer.key, layer.created, layer.description) for layer in tree.layers])

    def recall(self, text: str) -> Tree:
        """The tree that `describe` named. Raises `CacheError` when a layer of it is gone."""
        try:
            return Tree(tuple(self._recall(*entry) for entry in json.loads(text)))
        except (ValueError, TypeError) as error:
            raise CacheError(f"a cached result is unreadable: {error}") from error

    def _recall(self, key: str, created: str, description: str) -> Layer:
        row = self._row(key)
        if row is None:
            raise CacheError(f"layer {key} is no longer in the store")
        diff_id, blob_text, directory, location = row[1], row[2], row[3], row[4]
        blob = Descriptor(*json.loads(blob_text)) if blob_text else None
        if blob is not None:
            blob = blob._replace(digest=Digest.parse(blob.digest), annotations=())
        layer = Layer(
            key,
            blob=blob,
            diff_id=Digest.parse(diff_id) if diff_id else None,
            directory=directory if directory and self.snapshotter_has(directory) else None,
            source=self._open_source(location) if location else None,
            created=created,
            description=description,
        )
        here = layer.directory is not None or (blob is not None and self._content.has_blob(blob))
        if not here and layer.source is None:
            raise CacheError(f"layer {key} is no longer in the store")
        return layer

    async def check(self, tree: Tree) -> None:
        """Make sure that every layer can still be had, without fetching any. Raises `CacheError`."""
        await gather([spawn(self._check(layer)) for layer in tree.layers])

    async def _check(self, layer: Layer) -> None:
        if layer.directory is not None or layer.blob is None or self._content.has_blob(layer.blob):
            return
        if layer.source is None:
            raise CacheError(f"layer {layer.key} is no longer in the store")
        try:
            found = await in_thread(layer.source.blobs.has_blob, layer.blob, limiter=self._network)
        except (RegistryError, ContentError, OSError) as error:
            raise CacheError(f"layer {layer.key} cannot be had: {error}") from error
        if not found:
            raise CacheError(f"layer {layer.key} is no longer at {layer.source.location}")

    # -- from blobs to directories ----------------------------------------------------------------

    async def directories(self, tree: Tree) -> list[LayerDir]:
        """Unpack what is not unpacked yet; pulls what is not here."""
        return await gather([spawn(self._directory(layer)) for layer in tree.layers])

    async def _directory(self, layer: Layer) -> LayerDir:
        if layer.directory is None:
            if layer.key not in self._unpacking:
                self._unpacking[layer.key] = spawn(self._unpack(layer))
            layer.directory = await self._unpacking[layer.key]
        return layer.directory

    async def _unpack(self, layer: Layer) -> LayerDir:
        if layer.diff_id and (directory := self._directory_of(layer.diff_id)):
            return directory
        await self.fetch(layer)
        blob = layer.blob
        assert blob is not None
        directory, diff_id = await in_thread(self._apply, blob, limiter=self._disk)
        expected = layer.diff_id or blob.annotation(UNCOMPRESSED)
        if expected and expected != diff_id:
            self.snapshotter.remove(directory)
            raise ContentError(f"layer {blob.digest} unpacks to {diff_id}, but its image says {expected}")
        layer.diff_id = diff_id
        self._save(layer.key, diff_id, blob, directory, layer.source.location if layer.source else "")
        return directory

    def _apply(self, blob: Descriptor) -> tuple[LayerDir, Digest]:
        from inlay.archive.compression import decompress
        from inlay.archive.layer import apply_layer

        with self._content.open_blob(blob) as packed, self.snapshotter.receive() as incoming:
            diff_id = apply_layer(decompress(packed), incoming.directory)
            return incoming.commit(), diff_id

    async def fetch(self, layer: Layer) -> Descriptor:
        """Bring the layer's blob into the store. Raises `BlobNotFound`."""
        blob = layer.blob
        if blob is None:
            raise BlobNotFound(f"layer {layer.key} has no blob")
        if not self._content.has_blob(blob):
            if layer.source is None:
                raise BlobNotFound(f"layer {blob.digest} is not in the store, and nobody else has it")
            await in_thread(self._content.fetch, blob, layer.source.blobs, limiter=self._network)
            self._on_transfer(blob, blob.size)
        return blob

    # -- trees to look at and to write to ---------------------------------------------------------

    async def view(self, tree: Tree) -> View:
        """A read-only mount of `tree`, shared by all who ask and kept until `close`."""
        key = tuple(layer.key for layer in tree.layers)
        if key not in self._views:
            self._views[key] = spawn(self._view(tree))
        return await self._views[key]

    async def _view(self, tree: Tree) -> View:
        return await in_thread(self.snapshotter.view, await self.directories(tree), limiter=self._disk)

    async def prepare(self, tree: Tree) -> Active:
        """A writable mount on top of `tree`; the caller commits or discards it."""
        return await in_thread(self.snapshotter.prepare, await self.directories(tree), limiter=self._disk)

    def close(self) -> None:
        """Let go of all views."""
        for task in self._views.values():
            if task.done and task.error is None:
                task.result().close()
        self._views.clear()

    # -- from directories to blobs ----------------------------------------------------------------

    async def blobs(
        self, tree: Tree, pack: Callable[[Layer], Awaitable[Descriptor]] | None = None
    ) -> list[Descriptor]:
        """The descriptor of every layer; packs those that are only directories."""
        return await gather([spawn((pack or self.pack)(layer)) for layer in tree.layers])  # type: ignore[arg-type]
