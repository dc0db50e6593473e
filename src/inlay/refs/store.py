"""The way into refs: layers come in, results are recorded and found again, caches get what they carry."""

from __future__ import annotations

from inlay.digest import Digest, is_digest
from inlay.errors import CacheError
from inlay.golang.timestamp import format_ns, now_ns, parse_ns
from inlay.oci.descriptor import CREATED_AT, DESCRIPTION, UNCOMPRESSED
from inlay.refs.availability import Availability
from inlay.refs.mounted import Mounted
from inlay.refs.packing import Packing
from inlay.refs.ref import SCRATCH, Layer, Ref, annotated_blob
from inlay.refs.table import LayerTable, TreeRow
from inlay.refs.unpacking import Unpacking
from inlay.solver.keys import Chain
from inlay.tasks import Limiter
from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from inlay.archive.codecs import Codec
    from inlay.archive.planned import PlannedLayer
    from inlay.content.store import ContentStore
    from inlay.errors import BlobLost
    from inlay.oci.descriptor import Descriptor
    from inlay.refs.ref import Source
    from inlay.snapshot.snapshotter import LayerDir, Snapshotter


class RefStore:
    """All layers that this root knows. Its parts do the work: `availability` looks and fetches, `unpacking` makes
    directories of blobs, `mounted` trees of directories, `packing` blobs of directories."""

    def __init__(
        self,
        database: sqlite3.Connection,
        content: ContentStore,
        snapshotter: Callable[[], Snapshotter],
        open_source: Callable[[str], Source | None],
        *,
        epoch_s: Callable[[], int | None] = lambda: None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`snapshotter` is called when directories are needed, if ever, and gives the same one each time. `epoch_s`
        gives SOURCE_DATE_EPOCH, the time of the layers and the latest one in them, or None where it is not set.
        `warn` is told of each layer of a cached result that its place no longer has."""
        self._epoch_s = epoch_s
        self._snapshotter = snapshotter
        self._table = LayerTable(database)
        self.availability = Availability(self._table, content, snapshotter, open_source, warn)
        disk = Limiter(2)
        self.unpacking = Unpacking(self._table, self.availability, content, snapshotter, disk)
        self.mounted = Mounted(self.unpacking, snapshotter, disk)
        self.packing = Packing(
            self._table,
            self.availability,
            self.unpacking,
            self.mounted,
            content=content,
            snapshotter=snapshotter,
            disk=disk,
            mtime_limit_ns=self._epoch_ns,
        )
        self._temporary: list[LayerDir] = []
        self._recalled: dict[str, Ref] = {}
        self._stacks: dict[int, tuple[Chain, Ref]] = {}
        """The trees of chains, by the chains' `id`."""
        self._chains: dict[tuple[int, Layer], Chain] = {}
        """The chains that layers make on others, by the `id` of those."""

    def _epoch_ns(self) -> int | None:
        epoch_s = self._epoch_s()
        return None if epoch_s is None else epoch_s * 10**9

    @property
    def database(self) -> sqlite3.Connection:
        """The store's table of layers, for what else is remembered of them."""
        return self._table.database

    def close(self) -> None:
        """Let go of all trees, and delete what was made for this build only."""
        self.mounted.close()
        for directory in self._temporary:
            self._snapshotter().remove(directory)
        self._temporary.clear()

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
        row = self._table.layer(layer.key)
        if row is None:
            self._table.save(layer)
        elif row.directory and self.availability.has_directory(row.directory):
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
            self._table.save(layer)
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
        """Make a layer of what it is planned to be; see `Packing.write`."""
        packed, directory = await self.packing.write(planned, base=base, codec=codec, mounted=mounted)
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

    def _add_form(self, layer: Layer, directory: LayerDir | None) -> None:
        """Note that a layer that is a blob is this directory too."""
        if directory is None:
            return
        if layer.directory is not None:
            self._snapshotter().remove(directory)
            return
        layer.directory = directory
        self._table.save_directory(layer)

    def layer_of(self, directory: LayerDir, *, description: str, temporary: bool = False) -> Layer:
        """A directory on its own, such as a download or a checkout, perhaps known from an earlier build."""
        row = self._table.layer(str(directory))
        created_ns = self._epoch_ns()
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

    # -- results of records -----------------------------------------------------------------------

    def describe(self, ref: Ref) -> str:
        """Name `ref` so that a later build can `recall` it."""
        return self._table.name(ref)

    def recall(self, name: str) -> Ref:
        """The tree that `describe` named. Raises `CacheError` when a layer of it is gone."""
        above: list[TreeRow] = []
        while name and name not in self._recalled:
            row = self._table.tree(name)
            if row is None:
                raise CacheError(f"tree {name} is no longer in the store")
            above.append(row)
            name = row.parent
        ref = self._recalled.get(name, SCRATCH)
        for row in reversed(above):
            layer = self.availability.recall(row.layer, row.created, row.description)
            ref = self._recalled[row.id] = Ref((*ref.layers, layer))
        return ref

    def give_up(self, error: BlobLost) -> bool:
        """Count a blob as lost: no result that needs it is loaded from now on. False where
        trying again is of no use; see `Availability.give_up`."""
        if not self.availability.give_up(error):
            return False
        for part in (self.unpacking, self.mounted, self.packing):
            part.forget_failures()
        return True

    # -- caches -----------------------------------------------------------------------------------

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
        self.availability.expect(layer)
        return layer

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
