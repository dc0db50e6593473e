"""Refs: what a step has made, or an image brings. The only module that knows that a tree may be blobs, a
directory or a slice of the build context.

A tree is a stack of layers, lowest first. A layer is a blob (somewhere: in the store, in a registry),
a directory in overlay form, or both; either is made of the other, or fetched, when somebody needs it.
So a cache hit is a stack of blobs that nobody has pulled, and a RUN step's result a directory that nobody
has packed. `RefStore` keeps one row per layer; it lives on the loop's thread, the work is done on others.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, cast

from inlay.digest import Digest, is_digest
from inlay.errors import (
    BlobLost,
    BlobNotFound,
    CacheError,
    ContentError,
    DigestMismatch,
    RegistryError,
    SolveError,
    is_no_room,
    system_error,
)
from inlay.namedtuple import NamedTuple
from inlay.oci.descriptor import CREATED_AT, DESCRIPTION, UNCOMPRESSED, Descriptor
from inlay.snapshot.snapshotter import copy_root_looks
from inlay.solver.keys import Chain
from inlay.tasks import Limiter, Task, gather, in_thread, spawn
from inlay.timestamp import format_ns, now_ns, parse_ns

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from threading import Event

    from inlay.archive.compression import Codec
    from inlay.archive.layer import AppliedLayer
    from inlay.archive.packing import PackedLayer
    from inlay.archive.planned import PlannedLayer
    from inlay.archive.tree import Tree
    from inlay.archive.untar import Source as ByteSource
    from inlay.content import BlobSource, ContentStore
    from inlay.oci.image import Index, Manifest
    from inlay.snapshot.snapshotter import Active, LayerDir, Snapshotter, View

SCHEMA = """
CREATE TABLE IF NOT EXISTS layer (
    key TEXT PRIMARY KEY,       -- the blob's digest, or the directory's id where the layer was made here
    diff_id TEXT NOT NULL,      -- empty until the layer is packed
    blob TEXT NOT NULL,         -- media type, digest and size as JSON; empty until packed
    directory TEXT NOT NULL,    -- the snapshot's id; empty until unpacked
    source TEXT NOT NULL,       -- where the blob can be fetched from when the store has it not
    base TEXT NOT NULL          -- JSON: the keys of the layers that a directory was made on
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS layer_by_diff_id ON layer (diff_id);
CREATE TABLE IF NOT EXISTS tree (
    id TEXT PRIMARY KEY,        -- digest of the other columns
    parent TEXT NOT NULL,       -- the tree that the layer lies on; empty: none
    layer TEXT NOT NULL,
    created TEXT NOT NULL,
    description TEXT NOT NULL
) WITHOUT ROWID;
"""


class ImagePlace(Protocol):
    """A repository, or a folder or archive in OCI layout form: what images are read from."""

    def fetch_manifest(self, name: str) -> Manifest | Index:
        """The manifest of a tag or digest, verified. Raises `NotFound` or `BlobNotFound`."""

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes: ...

    def referrers(self, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Descriptors of the manifests whose subject is `subject`, of one artifact type where that is given."""


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
    blobs may stand in an image twice, made at different times. `base` holds the
    keys of the layers that a directory was made on; `planned` what is in a layer that this build has made
    without a directory."""

    __slots__ = ("base", "blob", "created", "description", "diff_id", "directory", "key", "planned", "source")

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
        base: tuple[str, ...] = (),
        planned: PlannedLayer | None = None,
    ) -> None:
        self.key = key
        self.blob = blob
        self.diff_id = diff_id
        self.directory = directory
        self.source = source
        self.created = created
        self.description = description
        self.base = base
        self.planned = planned

    def __repr__(self) -> str:
        return f"<Layer {self.key[:19]} {self.description[:40]!r}>"


class Ref(NamedTuple):
    """A file system tree: layers, lowest first. Of none, it is scratch."""

    layers: tuple[Layer, ...] = ()


class ContextRef(NamedTuple):
    """A slice of a build context, read in place. It is never recorded or exported."""

    context: Tree


SCRATCH = Ref()
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
        epoch_s: int | None = None,
    ) -> None:
        """`snapshotter` is called when a directory is needed for the first time, if ever."""
        self._database = database
        self._content = content
        self._make_snapshotter = snapshotter
        self._snapshotter: Snapshotter | None = None
        self._open_source = open_source
        self.epoch_s = epoch_s
        self._temporary: list[LayerDir] = []
        self._named: dict[tuple[str, str, str, str], str] = {}
        self._recalled: dict[str, Ref] = {}
        self._stacks: dict[int, tuple[Chain, Ref]] = {}
        """The trees of chains, by the chains' `id`."""
        self._chains: dict[tuple[int, Layer], Chain] = {}
        """The chains that layers make on others, by the `id` of those."""
        self._sound: set[Layer] = set()
        """Layers that can be had, as was found in this build."""
        self._packed: set[Layer] = set()
        self._unpacking: dict[str, Task[LayerDir]] = {}
        self._packing: dict[str, Task[PackedLayer]] = {}
        self._trees: dict[tuple[str, ...], Task[Tree]] = {}
        self._views: dict[tuple[str, ...], Task[View]] = {}
        self._touched: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        """Blobs that a place was found to have in this build: (location, digest)."""
        self._cached: set[tuple[str, str]] = set()
        """Layers that came with a cached result, and can be made again."""
        self._lost: set[tuple[str, str]] = set()
        self._disk = Limiter(2)
        self._network = Limiter(4)

    @property
    def snapshotter(self) -> Snapshotter:
        if self._snapshotter is None:
            self._snapshotter = self._make_snapshotter()
        return self._snapshotter

    @property
    def database(self) -> sqlite3.Connection:
        """The store's table of layers, for what else is remembered of them."""
        return self._database

    # -- layers come in ---------------------------------------------------------------------------

    def add_blob(
        self,
        blob: Descriptor,
        diff_id: Digest | None,
        source: Source | None,
        *,
        created: str = "",
        description: str = "",
    ) -> Layer:
        """A layer that is a blob somewhere. Nothing is fetched."""
        layer = Layer(
            str(blob.digest),
            blob=blob,
            diff_id=diff_id,
            source=source,
            created=created,
            description=description,
        )
        row = self._row(layer.key)
        if row is None:
            self._save(layer)
        elif row.directory and self.has_directory(row.directory):
            layer.directory = row.directory
        return layer

    def add_directory(
        self,
        directory: LayerDir,
        *,
        description: str,
        base: Ref,
        created_ns: int | None = None,
        temporary: bool = False,
    ) -> Layer:
        """A layer that a step has just made on `base`. A temporary one goes with the build."""
        created = format_ns(now_ns() if created_ns is None else created_ns)
        layer = Layer(
            str(directory),
            directory=directory,
            created=created,
            description=description,
            base=tuple(below.key for below in base.layers),
        )
        if temporary:
            self._temporary.append(directory)
        else:
            self._save(layer)
        return layer

    async def add_planned(
        self,
        planned: PlannedLayer,
        *,
        base: Ref,
        codec: Codec | None,
        mounted: bool,
        description: str,
        created_ns: int,
    ) -> Layer:
        """Make a layer of what it is planned to be: a blob by `codec`, and a directory if it is to be mounted.

        Raises `SourceError` for a file that cannot be read, `ContentError` for one that changes meanwhile.
        """
        from threading import Event

        stop = Event()
        roots = await self.directories(base) if mounted else []
        incoming = await in_thread(self.snapshotter.receive) if mounted else None
        try:
            if incoming is not None and roots:
                copy_root_looks(self.snapshotter.upper(roots[-1]), incoming.directory)
            packed = await in_thread(
                self._write_planned,
                planned,
                codec,
                incoming.directory if incoming is not None else "",
                stop,
                limiter=self._disk,
                abort=stop.set,
            )
            directory = incoming.commit() if incoming is not None else None
        finally:
            if incoming is not None:
                incoming.discard()
        if packed is None:
            assert directory is not None
            layer = self.add_directory(directory, description=description, base=base, created_ns=created_ns)
        else:
            layer = self.add_blob(
                packed.blob, packed.diff_id, None, created=format_ns(created_ns), description=description
            )
            self._add_form(layer, directory)
        layer.planned = planned
        return layer

    def _write_planned(
        self, planned: PlannedLayer, codec: Codec | None, directory: str, stop: Event
    ) -> PackedLayer | None:
        from inlay.archive.layer import apply_entries
        from inlay.archive.packing import pack_layer
        from inlay.archive.sourcefile import Sources

        with Sources() as sources:
            entries = planned.entries(sources)
            if codec is None:
                apply_entries(entries, directory)
                return None
            limit_ns = self._mtime_limit_ns
            return pack_layer(
                entries, self._content, codec, stop=stop, mtime_limit_ns=limit_ns, directory=directory
            )

    def _add_form(self, layer: Layer, directory: LayerDir | None) -> None:
        """Note that a layer that is a blob is this directory too."""
        if directory is None:
            return
        if layer.directory is not None:
            self.snapshotter.remove(directory)
            return
        layer.directory = directory
        self._change("UPDATE layer SET directory = ? WHERE key = ?", [(directory, layer.key)])

    def layer_of(self, directory: LayerDir, *, description: str, temporary: bool = False) -> Layer:
        """A directory on its own, such as a download or a checkout, perhaps known from an earlier build."""
        row = self._row(str(directory))
        created_ns = None if self.epoch_s is None else self.epoch_s * 10**9
        if row is None:
            return self.add_directory(
                directory,
                description=description,
                base=SCRATCH,
                created_ns=created_ns,
                temporary=temporary,
            )
        return Layer(
            row.key,
            blob=row.descriptor(),
            diff_id=Digest.parse(row.diff_id) if row.diff_id else None,
            directory=directory,
            created=format_ns(now_ns() if created_ns is None else created_ns),
            description=description,
        )

    def of_chain(self, chain: Chain) -> Ref:
        """The tree of an imported record. Nothing is fetched. Chains that share parts make trees that share
        layers. Raises `CacheError` where what the cache says of a layer cannot be."""
        above: list[Chain] = []
        part: Chain | None = chain
        while part is not None and id(part) not in self._stacks:
            above.append(part)
            part = part.parent
        ref = self._stacks[id(part)][1] if part is not None else SCRATCH
        for part in reversed(above):
            ref = Ref((*ref.layers, self._of_part(part)))
            self._stacks[id(part)] = part, ref
        return ref

    def _of_part(self, chain: Chain) -> Layer:
        blob = chain.descriptor
        diff_id, created = blob.annotation(UNCOMPRESSED), blob.annotation(CREATED_AT)
        if diff_id and not is_digest(diff_id):
            raise CacheError(f"the cache says that layer {blob.digest} holds {diff_id!r:.80}")
        layer = self.add_blob(
            blob._replace(annotations=()),
            Digest(diff_id) if diff_id else None,
            cast("Source | None", chain.provider),
            created=created if parse_ns(created) is not None else "",
            description=blob.annotation(DESCRIPTION),
        )
        self._cached.add(_whereabouts(layer))
        return layer

    # -- results of records -----------------------------------------------------------------------

    def describe(self, ref: Ref) -> str:
        """Name `ref` so that a later build can `recall` it. A tree's name does not grow with its height."""
        name, rows = "", []
        for layer in ref.layers:
            fields = (name, layer.key, layer.created, layer.description)
            known = self._named.get(fields)
            if known is None:
                known = self._named[fields] = Digest.of("\0".join(fields)).hex[:32]
                rows.append((known, *fields))
            name = known
        if rows:
            self._change("INSERT OR IGNORE INTO tree VALUES (?, ?, ?, ?, ?)", rows)
        return name

    def recall(self, name: str) -> Ref:
        """The tree that `describe` named. Raises `CacheError` when a layer of it is gone."""
        above: list[tuple[str, str, str, str]] = []
        while name and name not in self._recalled:
            row = self._database.execute(
                "SELECT parent, layer, created, description FROM tree WHERE id = ?", (name,)
            ).fetchone()
            if row is None:
                raise CacheError(f"tree {name} is no longer in the store")
            above.append((name, *row[1:]))
            name = row[0]
        ref = self._recalled.get(name, SCRATCH)
        for name, key, created, description in reversed(above):
            ref = self._recalled[name] = Ref((*ref.layers, self._recall(key, created, description)))
        return ref

    def _recall(self, key: str, created: str, description: str) -> Layer:
        row = self._row(key)
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
        self._cached.add(_whereabouts(layer))
        here = layer.directory is not None or (layer.blob is not None and self._content.has_blob(layer.blob))
        if not here and (layer.source is None or layer.blob is None):
            raise CacheError(f"layer {key} is no longer in the store")
        return layer

    async def check(self, ref: Ref) -> None:
        """Make sure that every layer can still be had, without fetching any. Raises `CacheError`."""
        await gather([spawn(self._check(layer)) for layer in ref.layers if layer not in self._sound])
        self._sound.update(ref.layers)

    def _touch(self, layer: Layer) -> None:
        """Note when a layer was last used: what was not for long can be deleted first."""
        if layer.key in self._touched:
            return
        self._touched.add(layer.key)
        if layer.directory is not None:
            self.snapshotter.touch(layer.directory)
        if layer.blob is not None:
            self._content.touch(layer.blob.digest)

    async def _check(self, layer: Layer) -> None:
        self._touch(layer)
        if layer.directory is not None or layer.blob is None:
            return
        here = _whereabouts(layer)
        if here in self._lost:
            raise CacheError(f"layer {layer.key} cannot be had")
        if self._content.has_blob(layer.blob):
            return
        if layer.source is None:
            raise CacheError(f"layer {layer.key} is no longer in the store")
        if here in self._seen:
            return
        try:
            source, abort = _abortable(layer.source.blobs)
            found = await in_thread(source.has_blob, layer.blob, limiter=self._network, abort=abort)
        except (RegistryError, ContentError, OSError) as error:
            raise CacheError(f"layer {layer.key} cannot be had: {error}") from error
        if not found:
            raise CacheError(f"layer {layer.key} is no longer at {layer.source.location}")
        self._seen.add(here)

    def give_up(self, error: BlobLost) -> bool:
        """Take it that a blob is not to be had: no result that needs it is loaded from now on. False where
        that is known already, or it is no cached result's, so that trying again is of no use."""
        here = (error.location, error.digest)
        if here in self._lost or here not in self._cached:
            return False
        self._lost.add(here)
        self._sound.clear()
        memos: list[dict[Any, Task[Any]]] = [self._unpacking, self._packing, self._trees, self._views]
        for tasks in memos:
            for name in [name for name, task in tasks.items() if not task.succeeded]:
                del tasks[name]
        return True

    def _lost_layer(self, layer: Layer, error: Exception) -> Exception:
        """`error`, or what it means where the layer came with a cached result."""
        location, digest = here = _whereabouts(layer)
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

    # -- from blobs to directories ----------------------------------------------------------------

    async def directories(self, ref: Ref) -> list[LayerDir]:
        """Unpack what is not unpacked yet; pulls what is not here."""
        layers = ref.layers
        there = [layer.directory for layer in layers if layer.directory is not None]
        if len(there) == len(layers):
            return there
        return await gather([spawn(self._directory(layer, layers[:n])) for n, layer in enumerate(layers)])

    async def _directory(self, layer: Layer, below: Sequence[Layer]) -> LayerDir:
        if layer.directory is not None:
            return layer.directory
        if layer.key not in self._unpacking:
            self._unpacking[layer.key] = spawn(self._unpack(layer, below))
        layer.directory = await self._unpacking[layer.key]
        return layer.directory

    async def _unpack(self, layer: Layer, below: Sequence[Layer]) -> LayerDir:
        if layer.diff_id and (known := self._directory_of(layer.diff_id)):
            return known
        blob = await self.fetch(layer)
        try:
            return await self._unpack_blob(blob, layer, below)
        except ContentError as error:
            if isinstance(error, BlobLost):
                raise
            raise self._lost_layer(layer, error) from error

    async def _unpack_blob(self, blob: Descriptor, layer: Layer, below: Sequence[Layer]) -> LayerDir:
        incoming = await in_thread(self.snapshotter.receive)
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
        self._save(layer)
        return layer.directory

    async def _inherit(self, directory: str, implied: Sequence[bytes], below: Sequence[Layer]) -> None:
        """Folders that the layer has only by implication look as they do in the layers below it."""
        from inlay.archive.layer import inherit_implied

        parents = [self.snapshotter.upper(each) for each in await self.directories(Ref(tuple(below)))]
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

    async def fetch(self, layer: Layer) -> Descriptor:
        """Bring the layer's blob into the store. Raises `BlobLost` where it came with a cached result, else
        `BlobNotFound` and what the place of the blob raises."""
        blob = layer.blob
        if blob is None:
            raise BlobNotFound(f"layer {layer.key} has no blob")
        if not self._content.has_blob(blob):
            try:
                if layer.source is None:
                    raise BlobNotFound(f"layer {blob.digest} is not in the store, and nobody else has it")
                source, abort = _abortable(layer.source.blobs)
                await in_thread(self._content.fetch, blob, source, limiter=self._network, abort=abort)
            except (ContentError, RegistryError) as error:
                raise self._lost_layer(layer, error) from error
        return blob

    # -- trees to look at and to write to ---------------------------------------------------------

    async def tree(self, ref: Ref) -> Tree:
        """`ref` to read. It is shared by all who ask, and open until `close`."""
        key = _keys(ref)
        if key not in self._trees:
            self._trees[key] = spawn(self._tree(ref))
        return await self._trees[key]

    async def _tree(self, ref: Ref) -> Tree:
        from inlay.archive.tree import Tree

        return Tree.at((await self.view(ref)).path)

    def opened(self, ref: Ref) -> Tree | None:
        """The tree of `ref`, if somebody has asked for it."""
        task = self._trees.get(_keys(ref))
        return task.result() if task is not None and task.succeeded else None

    async def view(self, ref: Ref) -> View:
        """A read-only mount of `ref`, shared by all who ask, and there until `close`."""
        key = _keys(ref)
        if key not in self._views:
            self._views[key] = spawn(self.own_view(ref))
        return await self._views[key]

    async def stack(self, ref: Ref) -> tuple[Tree | None, list[PlannedLayer]]:
        """`ref` to look things up in: a tree, and the layers on top of it that are known without one."""
        count = len(ref.layers)
        planned: list[PlannedLayer] = []
        while count and (top := ref.layers[count - 1].planned) is not None:
            planned.append(top)
            count -= 1
        return await self.tree(Ref(ref.layers[:count])) if count else None, planned[::-1]

    async def own_view(self, ref: Ref) -> View:
        """A read-only mount of `ref`; the caller closes it."""
        return await in_thread(self.snapshotter.view, await self.directories(ref), limiter=self._disk)

    async def prepare(self, ref: Ref) -> Active:
        """A writable mount on top of `ref`; the caller commits or discards it."""
        return await in_thread(self.snapshotter.prepare, await self.directories(ref), limiter=self._disk)

    def close(self) -> None:
        """Let go of all trees, and delete what was made for this build only."""
        for task in self._trees.values():
            if task.succeeded:
                task.result().close()
        for view in self._views.values():
            if view.succeeded:
                view.result().close()
        for directory in self._temporary:
            self.snapshotter.remove(directory)
        self._trees.clear()
        self._views.clear()
        self._temporary.clear()

    # -- from directories to blobs ----------------------------------------------------------------

    async def blobs(self, ref: Ref, codec: Codec) -> None:
        """Make sure that every layer has a blob; packs those that are only directories."""
        packing = [layer for layer in ref.layers if layer.blob is None or layer not in self._packed]
        await gather([spawn(self.pack(layer, codec)) for layer in packing])
        self._packed.update(packing)

    def chain(self, ref: Ref) -> Chain | None:
        """The layers of `ref` as a cache carries them; None where one has never been packed, or there is none.

        Trees that share their lower layers get chains that share their lower parts.
        """
        chain = None
        for layer in ref.layers:
            if layer.blob is None:
                return None
            made = self._chains.get((id(chain), layer))
            if made is None or made.descriptor.digest != layer.blob.digest:
                made = self._chains[id(chain), layer] = Chain(annotated_blob(layer), chain, layer.source)
            chain = made
        return chain

    async def pack(self, layer: Layer, codec: Codec) -> None:
        """Make sure that `layer` has a blob, here or elsewhere, and a diff id."""
        elsewhere = layer.source is not None or (
            layer.blob is not None and self._content.has_blob(layer.blob)
        )
        if layer.blob is None or not elsewhere:
            if layer.key not in self._packing:
                self._packing[layer.key] = spawn(self._pack(layer, codec))
            layer.blob, layer.diff_id = await self._packing[layer.key]
        elif layer.diff_id is None:
            await self.directories(Ref((layer,)))

    async def _pack(self, layer: Layer, codec: Codec) -> PackedLayer:
        from inlay.archive.packing import PackedLayer

        row = self._row(layer.key)
        if row is not None and (blob := row.descriptor()) is not None and self._content.has_blob(blob):
            return PackedLayer(blob, Digest.parse(row.diff_id))
        if layer.directory is None:
            raise BlobNotFound(f"layer {layer.key} is no longer in the store")
        base = Ref(tuple(self._recall(key, "", "") for key in layer.base))
        lower = (await self.view(base)).fd if layer.base else None
        packed = await self._write_blob(layer.directory, lower, codec)
        layer.blob, layer.diff_id = packed
        self._save(layer)
        return packed

    async def _write_blob(self, directory: LayerDir, lower: int | None, codec: Codec) -> PackedLayer:
        from threading import Event

        from inlay.archive.diff import layer_entries
        from inlay.archive.packing import pack_layer

        stop, limit_ns = Event(), self._mtime_limit_ns

        def write() -> PackedLayer:
            entries = layer_entries(self.snapshotter.upper(directory), lower=lower)
            return pack_layer(entries, self._content, codec, stop=stop, mtime_limit_ns=limit_ns)

        return await in_thread(write, limiter=self._disk, abort=stop.set)

    @property
    def _mtime_limit_ns(self) -> int | None:
        return None if self.epoch_s is None else self.epoch_s * 10**9

    # -- rows -------------------------------------------------------------------------------------

    def has_directory(self, directory: LayerDir) -> bool:
        return self.snapshotter.exists(directory)

    def _directory_of(self, diff_id: Digest) -> LayerDir | None:
        """Some layer of the same content that is unpacked already."""
        rows = self._database.execute(
            "SELECT directory FROM layer WHERE diff_id = ? AND directory != ''", (diff_id,)
        )
        return next((directory for (directory,) in rows if self.has_directory(directory)), None)

    def _row(self, key: str) -> Row | None:
        row = self._database.execute("SELECT * FROM layer WHERE key = ?", (key,)).fetchone()
        return Row(*row) if row else None

    def _save(self, layer: Layer) -> None:
        blob = json.dumps([layer.blob.media_type, layer.blob.digest, layer.blob.size]) if layer.blob else ""
        row = Row(
            layer.key,
            layer.diff_id or "",
            blob,
            layer.directory or "",
            layer.source.location if layer.source is not None else "",
            json.dumps(layer.base),
        )
        self._change("INSERT OR REPLACE INTO layer VALUES (?, ?, ?, ?, ?, ?)", [row])

    def _change(self, statement: str, rows: Sequence[tuple[str, ...]]) -> None:
        """Write `rows`, all or none of them. Raises `SolveError` where they cannot be written."""
        from sqlite3 import DatabaseError

        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
        except DatabaseError as error:
            if self._database.in_transaction:
                self._database.rollback()
            raise SolveError(
                f"the store's table of layers cannot be written ({error}); free some space there, or choose "
                "another folder with --root"
            ) from error


def _abortable(blobs: BlobSource) -> tuple[BlobSource, Callable[[], None] | None]:
    """`blobs`, and what ends calls of it, where they can be ended: those of a registry."""
    within = getattr(blobs, "within", None)
    if within is None:
        return blobs, None
    from inlay.registry.dial import Abort

    abort = Abort()
    return within(abort), abort


def _whereabouts(layer: Layer) -> tuple[str, str]:
    """The place that has the layer's blob ("": the store), and the blob's digest."""
    location = layer.source.location if layer.source is not None else ""
    return location, str(layer.blob.digest) if layer.blob is not None else layer.key


def _keys(ref: Ref) -> tuple[str, ...]:
    return tuple(layer.key for layer in ref.layers)


class Row(NamedTuple):
    """One layer on disk; see `SCHEMA`."""

    key: str
    diff_id: str
    blob: str
    directory: str
    source: str
    base: str

    def descriptor(self) -> Descriptor | None:
        if not self.blob:
            return None
        media_type, digest, size = json.loads(self.blob)
        return Descriptor(media_type, Digest.parse(digest), size)


def annotated_blob(layer: Layer) -> Descriptor:
    """The layer's blob with its diff id, time and description, as caches carry them."""
    assert layer.blob is not None
    notes = {UNCOMPRESSED: layer.diff_id or "", CREATED_AT: layer.created, DESCRIPTION: layer.description}
    return layer.blob.annotated({name: value for name, value in notes.items() if value})
