"""Images as sources: pinned cheaply (one manifest, one config), their layers fetched only when needed.

A reference is looked for in the local store first (images that `inlay build -t` left there), then in its
registry; with `--pull` only there. A digest is the same everywhere.
"""

from __future__ import annotations

import _thread
import os

from inlay.digest import Digest
from inlay.errors import ContentError, DigestMismatch, NotFound, RegistryError, SourceError
from inlay.llb.source_keys import image_keys, source_digest
from inlay.oci.image import ImageConfig, Manifest, choose_platform, image_platforms
from inlay.platform import host
from inlay.progress.report import shown
from inlay.reference import parse as parse_reference
from inlay.refs.ref import Ref
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.content.store import ContentStore
    from inlay.dockerfile.resolver import ImageRequest
    from inlay.llb.ops import SourceOp
    from inlay.oci.descriptor import Descriptor
    from inlay.platform import Platform
    from inlay.progress.events import Event
    from inlay.reference import Reference
    from inlay.refs.ref import Source
    from inlay.refs.store import RefStore
    from inlay.sources.places import Places

CONFIG_LIMIT = 8 << 20
"""An image config is read up to this many bytes (an inline cache may be large)."""


class PinnedImage(NamedTuple):
    """An image, pinned. `digest` is what the reference led to: the index's for a multi-platform image."""

    digest: Digest
    manifest: Manifest
    config: ImageConfig
    source: Source


class Images:
    """The images of one build, by reference: each is looked up once. May be used from several threads."""

    def __init__(
        self,
        places: Places,
        content: ContentStore,
        emit: Callable[[Event], None],
        *,
        root: str,
        pull: bool,
    ) -> None:
        """`content` keeps configs; `root` is the store's folder. `pull`: registries are asked for what the store
        has, too."""
        self._places = places
        self._content = content
        self._emit = emit
        self._root = root
        self._pull = pull
        self._layouts: dict[str, str] = {}
        self._known: dict[tuple[str, Platform], PinnedImage] = {}
        self._lock = _thread.allocate_lock()
        self._each: dict[tuple[str, Platform], _thread.LockType] = {}

    def add_layout(self, path: str, tag: str, digest: str) -> str:
        """The name of an image in the OCI layout at `path`, with its digest (`tag`'s, if that is empty), by which
        `resolve` finds it."""
        pinned = digest or self._places.layout(path).images.fetch_manifest(tag).digest
        store = "layout" + Digest.of(os.path.abspath(path)).hex[:16]
        self._layouts[store] = path
        return f"{store}@{pinned}"

    def resolve(self, request: ImageRequest) -> PinnedImage:
        """Read manifest and config; blocks. Raises `SourceError` that says where the image was looked for, or
        what there is instead of its platform."""
        platform = request.platform or host()
        reference = parse_reference(request.reference)
        if request.store:
            return self._in_layout(request.store, reference, platform)
        if (known := self.known(reference, platform)) is not None:
            return known
        with shown(self._emit, request.log_name or f"[internal] load metadata for {request.reference}"):
            return self._resolve_once(reference, platform)

    def known(self, reference: Reference, platform: Platform) -> PinnedImage | None:
        """The image, if it was looked up in the store or a registry already."""
        return self._known.get((str(reference), platform))

    def _in_layout(self, store: str, reference: Reference, platform: Platform) -> PinnedImage:
        path = self._layouts.get(store)
        if path is None:
            raise SourceError(f"{reference}: no OCI layout {store} was given")
        place = self._places.layout(path)
        return _read_image(place, str(reference.digest), platform, what=str(reference), content=self._content)

    def _resolve_once(self, reference: Reference, platform: Platform) -> PinnedImage:
        key = (str(reference), platform)
        with self._lock:
            each = self._each.setdefault(key, _thread.allocate_lock())
        with each:
            if key not in self._known:
                image = self._resolve(reference, platform)
                self._known[key] = image
                # The conversion goes on with the pinned name, so that it means the same image later.
                pinned = reference._replace(digest=image.digest)
                self._known.setdefault((str(pinned), platform), image)
        return self._known[key]

    def _resolve(self, reference: Reference, platform: Platform) -> PinnedImage:
        error: Exception | None = None
        for place in self._places_of(reference):
            try:
                name = str(reference.digest or reference.tag)
                return _read_image(place, name, platform, what=str(reference), content=self._content)
            except (NotFound, ContentError) as failure:
                if not _is_missing(failure):
                    raise SourceError(_about(reference, failure)) from failure
                error = failure
            except RegistryError as failure:
                raise SourceError(_about(reference, failure)) from failure
        said = _about(reference, error) if isinstance(error, RegistryError) else f"{reference}: not found"
        raise SourceError(said) from error

    def _places_of(self, reference: Reference) -> list[Source]:
        """Where to look: among what was built here first, unless `--pull` says otherwise."""
        registry: list[Source] = [self._places.registry(reference)]
        if self._pull or not os.path.exists(f"{self._root}/index.json"):
            return registry
        from inlay.sources.places import named

        local = named(self._places.layout(self._root), str(reference._replace(digest="")))
        return [local, *registry] if local is not None else registry


class ImageSource:
    """What a `docker-image://` or `oci-layout://` op names."""

    def __init__(self, op: SourceOp, platform: Platform, images: Images, refs: RefStore) -> None:
        self._op = op
        self._platform = platform
        self._images = images
        self._refs = refs

    async def digests(self) -> tuple[str, ...]:
        return image_digests(await self._image(), self._platform)

    async def fetch(self) -> Ref:
        return _image_ref(self._refs, await self._image())

    async def _image(self) -> PinnedImage:
        from inlay.dockerfile.resolver import ImageRequest
        from inlay.tasks import in_thread

        name = self._op.identifier.partition("://")[2]
        known = self._images.known(parse_reference(name), self._platform)
        if known is not None:
            return known
        request = ImageRequest(name, self._platform, store=self._op.attr("oci.store"))
        return await in_thread(self._images.resolve, request)


def _about(reference: Reference, failure: Exception) -> str:
    """What went wrong, with the image's name once."""
    said = str(failure)
    return said if str(reference) in said else f"{reference}: {said}"


def _is_missing(error: Exception) -> bool:
    from inlay.errors import BlobNotFound

    return isinstance(error, NotFound | BlobNotFound)


def _read_image(
    place: Source, name: str, platform: Platform, *, what: str, content: ContentStore
) -> PinnedImage:
    """The image for `platform` that tag or digest `name` leads to. Its config is looked for in `content`
    first, and kept there."""
    images = place.images
    top = images.fetch_manifest(name)
    manifest = top
    for _ in range(3):  # an index may hold indexes, but not without end
        if isinstance(manifest, Manifest):
            break
        chosen = choose_platform(manifest, platform)
        if chosen is None:
            offered = ", ".join(sorted({str(each) for each in image_platforms(manifest)})) or "none"
            raise SourceError(f"{what}: no image for platform {platform}; there are: {offered}")
        manifest = images.fetch_manifest(chosen.digest)
    if not isinstance(manifest, Manifest):
        raise SourceError(f"{what}: indexes within indexes within indexes")
    config = ImageConfig.parse(_read_config(place, manifest.config, content))
    if len(config.diff_ids) != len(manifest.layers):
        raise SourceError(
            f"{what}: its config lists {len(config.diff_ids)} layers and its manifest {len(manifest.layers)}"
        )
    return PinnedImage(top.digest, manifest, config, place)


def _read_config(place: Source, config: Descriptor, content: ContentStore) -> bytes:
    if content.has_blob(config):
        try:
            return content.read_blob(config, CONFIG_LIMIT)
        except DigestMismatch:
            content.delete(config.digest)  # it comes anew
    raw = place.images.read_blob(config, CONFIG_LIMIT)
    content.put(raw)
    return raw


def image_digests(image: PinnedImage, platform: Platform) -> tuple[str, str]:
    """The op digests of an image source (BuildKit: source/containerimage): by manifest, and by layers."""
    by_reference, by_layers = image_keys(image.digest, platform, image.config.chain_id)
    return source_digest(by_reference), source_digest(by_layers)


def _image_ref(refs: RefStore, image: PinnedImage) -> Ref:
    """The image's tree. Nothing is pulled."""
    history = image.config.layer_history
    layers = []
    for position, (blob, diff_id) in enumerate(
        zip(image.manifest.layers, image.config.diff_ids, strict=True)
    ):
        entry = history[position] if position < len(history) else {}
        layers.append(
            refs.add_blob(
                blob,
                diff_id,
                image.source,
                created=str(entry.get("created") or ""),
                description=str(entry.get("created_by") or ""),
            )
        )
    return Ref(tuple(layers))
