"""What a tree is: layers, and the places that their blobs come from. Values, but for what becomes known of a layer."""

from __future__ import annotations

from inlay.oci.descriptor import CREATED_AT, DESCRIPTION, UNCOMPRESSED
from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from inlay.archive.planned import PlannedLayer
    from inlay.content.store import BlobSource
    from inlay.digest import Digest
    from inlay.oci.descriptor import Descriptor
    from inlay.oci.image import Index, Manifest
    from inlay.snapshot.snapshotter import LayerDir
    from inlay.trees.tree import Tree


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
    """A slice of the build context `name`, read in place. It is never recorded or exported."""

    context: Tree
    name: str


SCRATCH = Ref()
"""The empty tree."""


def whereabouts(layer: Layer) -> tuple[str, str]:
    """The place that has the layer's blob ("": the store), and the blob's digest."""
    location = layer.source.location if layer.source is not None else ""
    return location, str(layer.blob.digest) if layer.blob is not None else layer.key


def annotated_blob(layer: Layer) -> Descriptor:
    """The layer's blob with its diff id, time and description, as caches carry them."""
    assert layer.blob is not None
    notes = {UNCOMPRESSED: layer.diff_id or "", CREATED_AT: layer.created, DESCRIPTION: layer.description}
    return layer.blob.annotated({name: value for name, value in notes.items() if value})
