"""`--cache-from`: caches out of registries, OCI layouts and local cache folders (BuildKit: cache/remotecache).

A cache may be an image with an inline cache, for any number of platforms, or a cache manifest of its own.
Beside an image may lie cache manifests that have the layers which are not the image's own, those of other
stages. They are looked for only when such a layer is wanted, since a fully cached build needs none.
Whatever is wrong with it becomes one warning, and the build goes on without it.
"""

from __future__ import annotations

import _thread

from inlay.cache.config import graph_of, parse_config
from inlay.cache.inline import import_inline
from inlay.errors import CacheError, InlayError
from inlay.oci.descriptor import CACHE_CONFIG, INDEXES, MANIFESTS
from inlay.oci.image import MOST_VALUES, ImageConfig, Index, Manifest, count_values
from inlay.progress.report import shown
from inlay.reference import parse as parse_reference
from inlay.tasks import in_thread, start_thread
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inlay.digest import Digest
    from inlay.oci.descriptor import Descriptor
    from inlay.progress.events import Event
    from inlay.registry.dial import Abort
    from inlay.request import Option
    from inlay.solver.keys import RecordGraph
    from inlay.sources.places import Place, Places

CONFIG_LIMIT = 8 << 20
"""A cache config, or an image config with an inline cache, is read up to this many bytes: 20,000 records and more.
BuildKit takes cache configs of 1 MiB, and what is larger than this is no image to inlay elsewhere either."""
_MAX_MANIFESTS = 200
_MAX_REFERRERS = 8
TIMEOUT_S = 60.0
"""A cache whose manifests and records did not come within this time is done without."""


class Allowance:
    """What all configs of one cache may take together, of whatever platforms: twice what one of them may."""

    __slots__ = ("_bytes", "_values")

    def __init__(self) -> None:
        self._bytes = 2 * CONFIG_LIMIT
        self._values = 2 * MOST_VALUES

    @property
    def is_spent(self) -> bool:
        return self._bytes < 0 or self._values < 0

    def admit(self, raw: bytes) -> bytes:
        """Count `raw`, and return it. Raises `CacheError` where it is too much; what is too much on its own is left
        to be refused by whoever decodes it."""
        values = count_values(raw)
        self._bytes -= len(raw)
        self._values -= values if values <= MOST_VALUES else 0
        if self.is_spent:
            raise CacheError(
                f"its configs have together more than {2 * CONFIG_LIMIT >> 20} MiB or {2 * MOST_VALUES:,} JSON values"
            )
        return raw


class Imported(NamedTuple):
    """What a cache holds, and how to read what lies beside it, if anything may: that blocks, and gives nothing
    where it fails."""

    graph: RecordGraph
    beside: Callable[[], list[RecordGraph]] | None = None


class Found(NamedTuple):
    """A cache, and how it is kept: `form` is `inline` (in the config of an image for `platform`), `beside`
    (a referrer of that image), or the form of a cache manifest, `image-manifest` or `index`."""

    form: str
    manifest: Digest
    config: Descriptor
    graph: RecordGraph
    platform: str = ""


async def import_cache(option: Option, places: Places, emit: Callable[[Event], None]) -> list[Imported]:
    """What one `--cache-from` holds; nothing, and a warning, where it cannot be used."""
    return await in_thread(_import, option, places, emit)


def _import(option: Option, places: Places, emit: Callable[[Event], None]) -> list[Imported]:
    name = option.get("ref") or option.get("src")
    try:
        with shown(emit, f"importing cache manifest from {name}") as view, _deadline(option) as abort:
            place, tag = _place(option, places, abort)
            top = place.images.fetch_manifest(tag)
            if (cache := _cache_manifest(top)) is not None:
                return [Imported(_read_config(place, *cache, Allowance()))]
            return [
                Imported(graph, _beside_of(option, places, manifest.digest, emit))
                for manifest, _, graph in _inline_graphs(
                    place, top, lambda said: view.warn(f"cache {name} is not used: {said}")
                )
            ]
    except (InlayError, OSError, ValueError, RecursionError) as error:
        from inlay.progress.events import Warned

        emit(Warned("", f"cache {name} is not used: {error}"))
        return []


class _deadline:  # noqa: N801 - reads as a function
    """What ends the calls to a registry that takes too long; for other places nothing is needed."""

    def __init__(self, option: Option) -> None:
        self._is_needed = option.type == "registry"
        self._abort: Abort | None = None
        self._ended = _thread.allocate_lock()

    def __enter__(self) -> Abort | None:
        if self._is_needed:
            from inlay.registry.dial import Abort

            self._abort = Abort()
            self._ended.acquire()
            start_thread(self._watch)
        return self._abort

    def _watch(self) -> None:
        if not self._ended.acquire(timeout=TIMEOUT_S) and self._abort is not None:
            self._abort()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._abort is None:
            return
        self._ended.release()
        if isinstance(error, InlayError) and self._abort.is_raised:
            raise CacheError(f"it did not come within {TIMEOUT_S:.0f} s") from error


def _place(option: Option, places: Places, abort: Abort | None) -> tuple[Place, str]:
    """Where the cache is, and the tag or digest that names it there."""
    if abort is not None:
        reference = parse_reference(option.get("ref"))
        return places.cache_registry(reference, abort), str(reference.digest or reference.tag or "latest")
    wanted = option.get("digest") or option.get("tag")
    if option.type == "local":
        wanted = wanted or "latest"
    return places.layout(option.get("src")), wanted


def _cache_manifest(top: Manifest | Index) -> tuple[Descriptor, tuple[Descriptor, ...]] | None:
    """The cache config's descriptor and the layers', where `top` is a cache rather than an image."""
    if isinstance(top, Manifest):
        return (top.config, top.layers) if top.config.media_type == CACHE_CONFIG else None
    configs = [descriptor for descriptor in top.manifests if descriptor.media_type == CACHE_CONFIG]
    if not configs:
        return None
    return configs[-1], tuple(blob for blob in top.manifests if blob.media_type != CACHE_CONFIG)


def _read_config(
    place: Place, config: Descriptor, layers: Sequence[Descriptor], allowance: Allowance
) -> RecordGraph:
    parsed = parse_config(allowance.admit(place.images.read_blob(config, CONFIG_LIMIT)))
    if [layer.blob for layer in parsed.layers] == [layer.digest for layer in layers]:
        return graph_of(parsed, layers, place)  # one for one, so that equal blobs keep their own times
    return graph_of(parsed, {str(layer.digest): layer for layer in layers}, place)


def _inline_graphs(
    place: Place, top: Manifest | Index, warn: Callable[[str], None]
) -> Iterator[tuple[Manifest, ImageConfig, RecordGraph]]:
    """The inline caches of all images that `top` leads to, whatever their platform."""
    allowance = Allowance()
    for manifest in _image_manifests(place, top):
        if not manifest.layers or manifest.config.media_type == CACHE_CONFIG:
            continue
        raw = place.images.read_blob(manifest.config, CONFIG_LIMIT)
        try:
            config = ImageConfig.parse(allowance.admit(raw))
            graph = import_inline(config, manifest.layers, place, warn=warn, admit=allowance.admit)
        except CacheError as error:
            warn(str(error))
            if allowance.is_spent:
                return
            continue
        if graph is not None:
            yield manifest, config, graph


def _beside_of(
    option: Option, places: Places, image: Digest, emit: Callable[[Event], None]
) -> Callable[[], list[RecordGraph]]:
    return lambda: _beside(option, places, image, emit)


def _beside(
    option: Option, places: Places, image: Digest, emit: Callable[[Event], None]
) -> list[RecordGraph]:
    """The caches whose subject is the manifest `image`."""
    graphs = []
    name = option.get("ref") or option.get("src")
    try:
        title = f"importing cache of other stages from {name}@{image}"
        with shown(emit, title), _deadline(option) as abort:
            place, _ = _place(option, places, abort)
            for _, _, graph in _caches_beside(place, image, Allowance()):
                graphs.append(graph)  # which counts though a later one be broken
    except (InlayError, OSError, ValueError, RecursionError) as error:
        from inlay.progress.events import Warned

        emit(Warned("", f"the cache beside {name} is not used: {error}"))
    return graphs


def _caches_beside(
    place: Place, image: Digest, allowance: Allowance
) -> Iterator[tuple[Digest, Descriptor, RecordGraph]]:
    """Of each cache whose subject is the manifest `image`: its digest, its config, and its records."""
    for descriptor in place.images.referrers(image, CACHE_CONFIG)[-_MAX_REFERRERS:]:
        cache = _cache_manifest(place.images.fetch_manifest(descriptor.digest))
        if cache is not None:
            yield descriptor.digest, cache[0], _read_config(place, *cache, allowance)


def _image_manifests(place: Place, top: Manifest | Index) -> Iterator[Manifest]:
    todo: list[Manifest | Index | Digest] = [top]
    for _ in range(_MAX_MANIFESTS):
        if not todo:
            return
        manifest = todo.pop(0)
        if isinstance(manifest, str):
            manifest = place.images.fetch_manifest(manifest)
        if isinstance(manifest, Manifest):
            yield manifest
            continue
        found = [each.digest for each in manifest.manifests if each.media_type in (*MANIFESTS, *INDEXES)]
        todo += found[: _MAX_MANIFESTS - len(todo)]


def find_caches(option: Option, places: Places, *, warn: Callable[[str], None]) -> Iterator[Found]:
    """Read all that one `--cache-from` may use, and what lies beside it. Raises `InlayError`; of an image that
    has other platforms `warn` is told what cannot be used."""
    with _deadline(option) as abort:
        place, tag = _place(option, places, abort)
        top = place.images.fetch_manifest(tag)
        if (cache := _cache_manifest(top)) is not None:
            form = "image-manifest" if isinstance(top, Manifest) else "index"
            yield Found(form, top.digest, cache[0], _read_config(place, *cache, Allowance()))
            return
        allowance = Allowance()
        for manifest, config, graph in _inline_graphs(place, top, warn):
            yield Found("inline", manifest.digest, manifest.config, graph, str(config.platform))
            for digest, descriptor, graph in _caches_beside(place, manifest.digest, allowance):
                yield Found("beside", digest, descriptor, graph, str(config.platform))
