"""Images as sources: pinned cheaply (one manifest, one config), their layers fetched only when needed.

A reference is looked for in the local store first (images that `inlay build -t` left there), then in its
registry; `--pull` asks the registry first. A digest is the same everywhere.
"""

from __future__ import annotations

import _thread

from inlay.errors import ContentError, DigestMismatch, NotFound, RegistryError, SourceError
from inlay.llb.source_keys import image_keys, source_digest
from inlay.oci.image import ImageConfig, Manifest, choose_platform, image_platforms
from inlay.refs.ref import Ref
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.content import ContentStore
    from inlay.digest import Digest
    from inlay.oci.descriptor import Descriptor
    from inlay.platform import Platform
    from inlay.reference import Reference
    from inlay.refs.ref import Source
    from inlay.refs.store import RefStore

CONFIG_LIMIT = 8 << 20
"""An image config is read up to this many bytes (an inline cache may be large)."""


class ResolvedImage(NamedTuple):
    """An image, pinned. `digest` is what the reference led to: the index's for a multi-platform image."""

    digest: Digest
    manifest: Manifest
    config: ImageConfig
    source: Source


class ImageResolver:
    """Finds images by reference, each once. May be used from several threads."""

    def __init__(self, places: Callable[[Reference], list[Source]], content: ContentStore) -> None:
        """`places` names, for a reference, where to look, in order; `content` keeps configs."""
        self._places = places
        self._content = content
        self._known: dict[tuple[str, Platform], ResolvedImage] = {}
        self._lock = _thread.allocate_lock()
        self._each: dict[tuple[str, Platform], _thread.LockType] = {}

    def resolve(self, reference: Reference, platform: Platform) -> ResolvedImage:
        """Read manifest and config. Raises `SourceError` that says where it was looked for, or what the
        index offers instead of `platform`."""
        key = (str(reference), platform)
        with self._lock:
            each = self._each.setdefault(key, _thread.allocate_lock())
        with each:
            if key not in self._known:
                image = self._resolve(reference, platform)
                self._known[key] = image
                # The frontend goes on with the pinned name, so that it means the same image later.
                pinned = reference._replace(digest=image.digest)
                self._known.setdefault((str(pinned), platform), image)
        return self._known[key]

    def known(self, reference: Reference, platform: Platform) -> ResolvedImage | None:
        """The image, if it was resolved already."""
        return self._known.get((str(reference), platform))

    def _resolve(self, reference: Reference, platform: Platform) -> ResolvedImage:
        error: Exception | None = None
        for place in self._places(reference):
            try:
                name = str(reference.digest or reference.tag)
                return read_image(place, name, platform, what=str(reference), content=self._content)
            except (NotFound, ContentError) as failure:
                if not _is_missing(failure):
                    raise SourceError(_about(reference, failure)) from failure
                error = failure
            except RegistryError as failure:
                raise SourceError(_about(reference, failure)) from failure
        said = _about(reference, error) if isinstance(error, RegistryError) else f"{reference}: not found"
        raise SourceError(said) from error


def _about(reference: Reference, failure: Exception) -> str:
    """What went wrong, with the image's name once."""
    said = str(failure)
    return said if str(reference) in said else f"{reference}: {said}"


def _is_missing(error: Exception) -> bool:
    from inlay.errors import BlobNotFound

    return isinstance(error, NotFound | BlobNotFound)


def read_image(
    place: Source, name: str, platform: Platform, *, what: str, content: ContentStore
) -> ResolvedImage:
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
    return ResolvedImage(top.digest, manifest, config, place)


def _read_config(place: Source, config: Descriptor, content: ContentStore) -> bytes:
    if content.has_blob(config):
        try:
            return content.read_blob(config, CONFIG_LIMIT)
        except DigestMismatch:
            content.delete(config.digest)  # it comes anew
    raw = place.images.read_blob(config, CONFIG_LIMIT)
    content.put(raw)
    return raw


def image_digests(image: ResolvedImage, platform: Platform) -> tuple[str, str]:
    """The op digests of an image source (BuildKit: source/containerimage): by manifest, and by layers."""
    by_reference, by_layers = image_keys(image.digest, platform, image.config.chain_id)
    return source_digest(by_reference), source_digest(by_layers)


def image_ref(refs: RefStore, image: ResolvedImage) -> Ref:
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
