"""`--cache-to` registries and folders: caches as objects of their own (BuildKit: cache/remotecache/export.go)."""

from __future__ import annotations

import os

from inlay.cache.cut import cut
from inlay.cache.manifest import CacheManifest, cache_manifest
from inlay.cache.results import with_results
from inlay.errors import BlobLost, ExportError, InlayError
from inlay.export.plan import codec_of, parse_target
from inlay.export.publish import bytes_blob, push_blobs
from inlay.oci.descriptor import DESCRIPTION
from inlay.progress.events import Warned
from inlay.progress.report import shown
from inlay.tasks import in_thread
from inlay.typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from inlay.export.publish import Destination
    from inlay.export.results import Results
    from inlay.progress.events import Event
    from inlay.progress.report import Shown
    from inlay.refs.ref import Source
    from inlay.request import Option
    from inlay.solver.export import Export
    from inlay.solver.keys import Chain, RecordGraph
    from inlay.sources.places import Places
    from inlay.tasks import Limiter

_KINDS = {"registry": "registry", "local": "client directory"}
_MOST_SHOWN = 10


class _Target(NamedTuple):
    """Where a cache goes, and under which tag; `location` and `host` are as for `push_blobs`."""

    destination: Destination
    tag: str
    location: str = ""
    host: str = ""


class CacheExporter:
    """Writes the caches of one build."""

    def __init__(
        self, results: Results, places: Places, limiter: Limiter, emit: Callable[[Event], None]
    ) -> None:
        self._results = results
        self._places = places
        self._limiter = limiter
        self._emit = emit
        self._lost: set[tuple[str, str]] = set()
        """Blobs of imported results that their places no longer have: (location, digest)."""

    async def export(self, option: Option, records: Export) -> None:
        """Write one cache. Raises `ExportError`, `RegistryError`; with `ignore-error=true` only warns. Raises
        `BlobLost` where a step can make again what is gone; a result that no step was asked for is left out."""
        try:
            with shown(self._emit, f"exporting cache to {_KINDS[option.type]}") as view:
                try:
                    await self._export(option, records, view)
                except OSError as error:
                    where = option.get("dest") or option.get("ref")
                    said = (error.strerror or str(error)).lower()
                    raise ExportError(f"cannot write {where}: {said}") from error
        except BlobLost as error:
            here = (error.location, error.digest)
            if here in self._lost or self._results.can_be_made_again(error):
                raise
            self._lost.add(here)
            self._emit(Warned("", f"{error}; the cache is written without the results that need it"))
            await self.export(option, records)
        except InlayError as error:
            if not option.flag("ignore-error"):
                raise
            self._emit(Warned("", f"the cache was not exported: {error}"))

    async def _export(self, option: Option, records: Export, view: Shown) -> None:
        with view.status("preparing build cache for export"):
            chain_of = self._results.chain_of(codec_of(option))
            graph = await with_results(records, chain_of, "max" if option.get("mode") == "max" else "min")
            if self._lost:
                graph = _without(graph, self._lost)
            graph = await self._results.forced_results(graph, option)
            cache, graph, left_out = cut(graph, records.targets, lambda rest: _manifest(rest, option))
        if left_out:
            view.warn(_told(left_out))
        if cache is None:
            with view.status("skipping cache export for empty result"):
                return
        blobs = [*self._results.cache_blobs(graph), bytes_blob(cache.config_descriptor, cache.config)]
        destination, tag, location, host = self._target(option)
        with view.status("writing layers and config"):
            await push_blobs(destination, blobs, self._limiter, location=location, host=host)
        with view.status(f"writing cache manifest {cache.descriptor.digest}"):
            await in_thread(destination.push_manifest, cache.raw, cache.media_type, tag)
        if option.type == "local" and option.flag("reset"):
            await _reset(option.get("dest"), view)

    def _target(self, option: Option) -> _Target:
        if option.type == "registry":
            name = parse_target(option.get("ref"), "--cache-to")
            location = self._places.registry(name).location
            return _Target(self._places.repository(name), name.tag, location, name.domain)
        from inlay.layout import LayoutFolder

        os.makedirs(option.get("dest"), exist_ok=True)
        return _Target(LayoutFolder(option.get("dest")), option.get("tag") or "latest")


def _without(graph: RecordGraph, lost: Container[tuple[str, str]]) -> RecordGraph:
    """`graph` without the results that need a blob of `lost`."""

    def is_whole(chain: Chain) -> bool:
        return not any(
            (cast("Source", each.provider).location, str(each.descriptor.digest)) in lost
            for each in chain.chains()
            if each.provider is not None
        )

    return [
        node._replace(results=tuple(result for result in node.results if is_whole(result[0])))
        for node in graph
    ]


async def _reset(path: str, view: Shown) -> None:
    """Delete what no cache in the folder `path` needs."""
    from inlay.layout import LayoutFolder

    try:
        with view.status("deleting what is no longer needed"):
            await in_thread(LayoutFolder(path).delete_unreferenced)
    except (InlayError, OSError) as error:
        view.warn(f"old blobs in {path} are still there: {error}")


def _manifest(graph: RecordGraph, option: Option) -> CacheManifest | None:
    oci = option.flag("oci-mediatypes", default=True)
    image_manifest = option.flag("image-manifest", default=oci)
    return cache_manifest(graph, image_manifest=image_manifest, oci_media_types=oci)


def _told(left_out: Sequence[Chain]) -> str:
    """What a cache lacks, for people to read."""
    steps = [chain.descriptor.annotation(DESCRIPTION) or str(chain.descriptor.digest) for chain in left_out]
    named = "; ".join(f"{step!r:.60}" for step in steps[:_MOST_SHOWN])
    return (
        f"the results of {len(steps)} steps are left out of the cache, which BuildKit would not import if it had "
        f"more than 1 MiB of records: {named}{'; …' if len(steps) > _MOST_SHOWN else ''}"
    )
