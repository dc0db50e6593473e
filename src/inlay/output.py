"""What becomes of a build's result: planned before the build, so that wrong wishes fail first; done after it."""

from __future__ import annotations

import os

from inlay.cache.cut import cut
from inlay.cache.inline import inline_cache
from inlay.cache.manifest import CacheManifest, cache_manifest
from inlay.cache.results import with_results
from inlay.digest import Digest
from inlay.errors import BlobLost, CacheError, ContentError, ExportError, InlayError, UsageError, system_error
from inlay.export.image import Image, ImageLayer, assemble, assemble_index
from inlay.export.publish import (
    Referrer,
    bytes_blob,
    image_blobs,
    push_blobs,
    push_images,
    push_referrer,
    stored_blob,
)
from inlay.oci.descriptor import DESCRIPTION, OCI_INDEX, REF_NAME, Descriptor
from inlay.oci.image import ImageConfig
from inlay.oci.referrers import referrers_tag, with_referrer
from inlay.platform import format_platform
from inlay.progress.events import Warned
from inlay.progress.report import shown
from inlay.reference import parse as parse_reference
from inlay.request import Option, check_exports, parse_bool
from inlay.tasks import Limiter, in_thread
from inlay.typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from inlay.archive.codecs import Codec
    from inlay.cache.results import ChainOf, Mode
    from inlay.content import ContentStore
    from inlay.export.publish import Blob, Destination
    from inlay.export.recompress import Recompressor
    from inlay.export.shipping import Shipping
    from inlay.oci.image import Index, Manifest
    from inlay.platform import Platform
    from inlay.progress.events import Event
    from inlay.progress.report import Shown
    from inlay.reference import Reference
    from inlay.refs.ref import Layer, Ref, Source
    from inlay.refs.store import RefStore
    from inlay.request import BuildRequest
    from inlay.solver.export import Export
    from inlay.solver.keys import CacheRecord, Chain, RecordGraph
    from inlay.sources.places import Places

_CACHE_KINDS = {"registry": "registry", "local": "client directory"}

TRANSFERS = 4
"""Blobs that are pushed at the same time."""


class BuiltPlatform(NamedTuple):
    """What was built for one platform. `config` is the frontend's image config, `base` the base image's."""

    platform: Platform
    config: bytes
    base: bytes | None
    ref: Ref
    records: Export | None


class Output(NamedTuple):
    """One thing to write. `names` are full references; `option` has what else was asked for."""

    option: Option
    names: tuple[Reference, ...] = ()

    @property
    def is_image(self) -> bool:
        return self.option.type not in ("local", "tar")

    @property
    def is_pushed(self) -> bool:
        return self.option.type == "image" and self.option.flag("push")

    @property
    def docker(self) -> bool:
        """Whether docker's media types are wanted; archives for docker always have them."""
        return not self.option.flag("oci-mediatypes", default=self.option.type != "docker")


class Written(NamedTuple):
    """Digests of what was written; empty where it is no image."""

    digest: str = ""
    config_digest: str = ""


class _Made(NamedTuple):
    """An image for each platform, the index of `several`, and for each image its layers and the cache to lie
    beside it."""

    images: Sequence[Image]
    several: Index | None
    layers: Sequence[Sequence[Layer]]
    caches: Sequence[Referrer | None]

    @property
    def top(self) -> Manifest | Index:
        return self.images[0].manifest if self.several is None else self.several


def plan_outputs(request: BuildRequest) -> list[Output]:
    """What `request` wants written. Raises `UsageError`, before anything is built."""
    names = tuple(_name(tag, "-t") for tag in request.tags)
    check_exports(request.cache_to, request.outputs)
    caches = [option for option in request.cache_to if option.type == "registry"]
    places = [_name(option.get("ref"), "--cache-to") for option in caches]
    for option, place in zip(caches, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"--cache-to {option}: two caches cannot go to the same place")
    options = request.outputs or (Option("image"),)
    outputs = []
    for option in options:
        if option.type == "registry":
            option = Option("image", (*option.fields, ("push", "true")))
        named = tuple(_name(name, "--output") for name in option.get("name").split(",") if name) or names
        if option.type == "image" and option.flag("push") and not named:
            raise UsageError("nothing to push to: name the image with -t REGISTRY/NAME:TAG")
        outputs.append(Output(option, named))
    if request.annotations:
        from inlay.export.annotations import check_annotations

        for output in outputs:
            if output.is_image:
                check_annotations(request.annotations, request.platforms, docker=output.docker)
    return outputs


def _name(text: str, flag: str) -> Reference:
    try:
        reference = parse_reference(text)
    except UsageError as error:
        raise UsageError(f"{flag} {text}: {error}") from error
    if reference.digest:
        raise UsageError(f"{flag} {text}: what is written cannot be named by a digest")
    return reference if reference.tag else reference._replace(tag="latest")


class Exporter:
    """Writes outputs. One for a build; lives on the loop's thread."""

    def __init__(
        self,
        request: BuildRequest,
        refs: RefStore,
        places: Places,
        *,
        root: str,
        content: ContentStore,
        emit: Callable[[Event], None],
        epoch_s: Callable[[], int | None],
    ) -> None:
        """`root` is the store's folder, which is an OCI layout; `epoch_s` gives SOURCE_DATE_EPOCH, if it is set."""
        self._request = request
        self._root = root
        self._content = content
        self._refs = refs
        self._places = places
        self._emit = emit
        self._epoch_s = epoch_s
        self._limiter = Limiter(TRANSFERS)
        self.shipping: Shipping | None = None
        """Layers that were sent ahead, if any were."""
        inline = [option for option in request.cache_to if option.type == "inline"]
        self._recompressors: dict[str, Recompressor] = {}
        self._inline: Mode | None = None
        if inline:
            self._inline = "max" if any(option.get("mode") == "max" for option in inline) else "min"

    async def write(self, output: Output, built: Sequence[BuiltPlatform]) -> Written:
        """Write one output. Raises `ExportError`, `RegistryError`."""
        writers: dict[str, Callable[[Output, Sequence[BuiltPlatform], Shown], Any]] = {
            "image": self._write_image,
            "oci": self._write_layout,
            "docker": self._write_archive,
            "local": self._write_folder,
            "tar": self._write_tar,
        }
        titles = {"image": "exporting to image", "local": "copying files", "tar": "sending tarball"}
        title = titles.get(output.option.type, f"exporting to {output.option.type} image format")
        if output.option.type == "cacheonly":
            return Written()
        try:
            with shown(self._emit, title) as view:
                return cast("Written", await writers[output.option.type](output, built, view))
        except OSError as error:
            where = output.option.get("dest") or ", ".join(map(str, output.names))
            raise ExportError(f"cannot write {where}: {(error.strerror or str(error)).lower()}") from error
        except BlobLost:
            raise
        except ContentError as error:
            raise ExportError(str(error)) from error

    # -- images --------------------------------------------------------------------------------------

    async def _images(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> _Made:
        """Pack what is not packed, and make manifests and configs."""
        codec = _codec(output.option)
        with view.status("exporting layers"):
            for each in built:
                await self._refs.packing.blobs(each.ref, codec)
            built = [each._replace(ref=await self._forced(each.ref, output.option)) for each in built]
        made = [await self._image(each, output, view) for each in built]
        images = [image for image, _ in made]
        for image in images:
            with view.status(f"exporting manifest {image.manifest.digest}"):
                pass
            with view.status(f"exporting config {image.manifest.config.digest}"):
                pass
        several = len(images) > 1
        notes = self._annotated("index")
        index = assemble_index(images, docker=output.docker, annotations=notes) if several else None
        return _Made(images, index, [each.ref.layers for each in built], [cache for _, cache in made])

    async def _image(
        self, built: BuiltPlatform, output: Output, view: Shown
    ) -> tuple[Image, Referrer | None]:
        layers = [_image_layer(layer) for layer in built.ref.layers]
        graph: RecordGraph = []
        if self._inline and built.records is not None:
            graph = await self._inline_graph(built.records, output, view)
        cache = inline_cache(graph, [str(layer.blob.digest) for layer in layers])
        base = ImageConfig.parse(built.base).history if built.base else ()
        image = assemble(
            built.config,
            layers,
            built.platform,
            inline_cache=cache,
            epoch_s=self._epoch_s(),
            base_history=base,
            docker=output.docker,
            annotations=self._annotated("manifest", built.platform),
        )
        notes = self._annotated("manifest-descriptor", built.platform)
        image = image._replace(notes=tuple(sorted(notes.items())))
        return image, self._beside(image, graph) if cache and self._inline == "max" else None

    async def _inline_graph(self, records: Export, output: Output, view: Shown) -> RecordGraph:
        """What the inline cache is made of. In mode max all is packed first: then it is the same for who packs
        a layer and who finds it packed."""
        chain_of = self._chain_of(_codec(output.option))
        if self._inline == "max":
            try:
                with view.status("exporting layers of other stages"):
                    graph = await with_results(records, chain_of, "max")
                    return await self._forced_results(graph, output.option)
            except (InlayError, OSError) as error:
                view.warn(f"the cache has no layers of other stages: {error}")
        return await self._forced_results(await with_results(records, chain_of, "min"), output.option)

    def _beside(self, image: Image, graph: RecordGraph) -> Referrer | None:
        """The cache to lie beside `image`; None where the image itself has all its layers."""
        cache = cache_manifest(graph, subject=image.manifest.descriptor)
        own = {layer.digest for layer in image.manifest.layers}
        if cache is None or own >= {layer.digest for layer in cache.layers}:
            return None
        layers = _cache_blobs(graph, self._content)
        config = bytes_blob(cache.config_descriptor, cache.config)
        return Referrer(image.manifest.digest, cache.raw, cache.descriptor, layers, config)

    def _chain_of(self, codec: Codec) -> ChainOf:
        """Finds the layers of a record's result."""

        async def find(record: CacheRecord, *, pack: bool) -> Chain | None:
            try:
                ref = self._refs.recall(record.id)
                if pack:
                    await self._refs.packing.blobs(ref, codec)
            except CacheError:
                return None
            return self._refs.chain(ref)

        return find

    # -- force-compression ---------------------------------------------------------------------------

    async def _forced(self, ref: Ref, option: Option) -> Ref:
        """`ref`, all of whose layers have blobs, as `option` wants them compressed."""
        return await self._recompressor(option).convert(ref) if option.is_forced else ref

    async def _forced_results(self, graph: RecordGraph, option: Option) -> RecordGraph:
        """The results of `graph`, as `option` wants their layers compressed."""
        if not option.is_forced:
            return graph
        forced: dict[int, Chain] = {}
        for chain in [chain for node in graph for chain, _ in node.results]:
            if id(chain) not in forced:
                made = self._refs.chain(await self._forced(self._refs.of_chain(chain), option))
                assert made is not None
                forced[id(chain)] = made
        return [
            node._replace(results=tuple((forced[id(chain)], created) for chain, created in node.results))
            for node in graph
        ]

    def _recompressor(self, option: Option) -> Recompressor:
        from inlay.export.recompress import Recompressor

        codec = _codec(option)
        if codec.media_type not in self._recompressors:
            self._recompressors[codec.media_type] = Recompressor(
                self._refs, self._content, self._refs.database, codec
            )
        return self._recompressors[codec.media_type]

    # -- to registries and the store -----------------------------------------------------------------

    async def _write_image(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> Written:
        made = await self._images(output, built, view)
        if output.option.flag("push"):
            for name in output.names:
                await self._push(name, made, view)
        elif parse_bool(output.option.get("store", "true")) is not False:
            await self._into_layout(self._root, output, made, view)
        return _written(made)

    async def _push(self, name: Reference, made: _Made, view: Shown) -> None:
        place = self._places.registry(name)
        repository = self._places.repository(name)
        if await in_thread(repository.has_manifest, made.top.descriptor, name.tag):
            with view.status(f"{name}@{made.top.digest} is there already"):
                pass
            return await self._lay_beside(made, repository, view, location=place.location, host=name.domain)
        with view.status("pushing layers"):
            for image, layers in zip(made.images, made.layers, strict=True):
                blobs = await self._left_behind(image_blobs(image, layers, self._content), place.location)
                await push_blobs(repository, blobs, self._limiter, location=place.location, host=name.domain)
        with view.status(f"pushing manifest for {name}@{made.top.digest}"):
            await push_images(repository, made.images, made.several, [name.tag])
        return await self._lay_beside(made, repository, view, location=place.location, host=name.domain)

    def ship(self, ref: Ref, codec: Codec, outputs: Sequence[Output]) -> None:
        """Send layers that will be of an image ahead of it, while later steps still run."""
        if self.shipping is None:
            from inlay.export.shipping import Shipping

            pushed = [each for each in outputs if each.is_pushed and not each.option.is_forced]
            names = [name for each in pushed for name in each.names]
            self.shipping = Shipping(self._refs, self._content, self._places, self._limiter, names)
        self.shipping.take(ref, codec)

    async def _left_behind(self, blobs: Sequence[Blob], location: str) -> list[Blob]:
        """Those of `blobs` that were not sent ahead."""
        if self.shipping is None:
            return list(blobs)
        await self.shipping.done()
        return [
            blob for blob in blobs if (location, str(blob.descriptor.digest)) not in self.shipping.arrived
        ]

    async def _lay_beside(
        self, made: _Made, destination: Destination, view: Shown, *, location: str = "", host: str = ""
    ) -> None:
        """Push what is to lie beside the images; whatever is wrong with that is a warning."""
        for cache in filter(None, made.caches):
            try:
                with view.status(f"pushing cache of other stages of {cache.subject}"):
                    await push_referrer(destination, cache, self._limiter, location=location, host=host)
            except (InlayError, OSError) as error:
                view.warn(f"the layers of other stages are not kept beside the image: {error}")

    async def _into_layout(self, path: str, output: Output, made: _Made, view: Shown) -> None:
        """Write to a layout folder; under the full names, and the tag of the option."""
        from inlay.layout import LayoutFolder

        os.makedirs(path, exist_ok=True)
        folder = LayoutFolder(path)
        for image, layers in zip(made.images, made.layers, strict=True):
            await push_blobs(folder, image_blobs(image, layers, self._content), self._limiter)
        for image in made.images if made.several is not None else ():
            await in_thread(folder.push_manifest, image.manifest.raw, image.manifest.media_type)
        top, notes = made.top, self._notes(made)
        for name in output.names or (None,):
            with view.status(f"naming to {name}") if name else view.status(f"writing {path}"):
                await in_thread(_list, folder, top.raw, top.media_type, name, notes, path == self._root)
        await self._lay_beside(made, folder, view)

    def _annotated(self, level: str, platform: Platform | None = None) -> dict[str, str]:
        """The annotations that were asked for at one level."""
        if not self._request.annotations:
            return {}
        from inlay.export.annotations import at_level, parse_annotations

        return at_level(parse_annotations(self._request.annotations), level, platform)

    def _notes(self, made: _Made) -> dict[str, str]:
        """Annotations for what names the image in a layout."""
        if made.several is not None:
            return self._annotated("index-descriptor")
        return dict(made.images[0].notes)

    # -- layouts and archives ------------------------------------------------------------------------

    async def _write_layout(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> Written:
        if output.option.flag("tar", default=True):
            return await self._write_archive(output, built, view)
        made = await self._images(output, built, view)
        await self._into_layout(output.option.get("dest"), output, made, view)
        return _written(made)

    async def _write_archive(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> Written:
        if output.option.type == "docker" and len(built) > 1:
            raise ExportError("a docker archive holds one platform; use type=oci for several")
        made = await self._images(output, built, view)
        await in_thread(self._archive, output, made)
        return _written(made)

    def _archive(self, output: Output, made: _Made) -> None:
        from inlay.export.archives import docker_manifest
        from inlay.export.newfile import NewFile
        from inlay.layout import IMAGE_NAME, write_archive

        blobs = []
        for image, stacked in zip(made.images, made.layers, strict=True):
            blobs += image_blobs(image, stacked, self._content)
            blobs.append(bytes_blob(image.manifest.descriptor, image.manifest.raw))
        top = made.top.descriptor.annotated(self._notes(made))
        blobs.append(bytes_blob(top, made.top.raw))
        listed = [top.annotated({IMAGE_NAME: str(name), REF_NAME: name.tag}) for name in output.names] or [
            top
        ]
        extra: list[tuple[str, bytes]] = []
        if output.option.type == "docker":
            extra.append(("manifest.json", docker_manifest(made.images[0], output.names)))
        for cache in filter(None, made.caches) if output.option.type == "oci" else ():
            tag, index = referrers_tag(cache.subject), with_referrer(b"", cache.descriptor)
            named = Descriptor(OCI_INDEX, Digest.of(index), len(index)).annotated({REF_NAME: tag})
            blobs += [*cache.layers, cache.config, bytes_blob(cache.descriptor, cache.raw)]
            blobs.append(bytes_blob(named, index))
            listed.append(named)
        with NewFile(output.option.get("dest")) as out:
            write_archive(out, listed, [(blob.descriptor, blob.open) for blob in blobs], extra=extra)

    # -- caches --------------------------------------------------------------------------------------

    async def export_caches(self, records: Export | None) -> None:
        """Write what `--cache-to` asks for, but for inline caches. Raises `ExportError`, `RegistryError`;
        with `ignore-error=true` only warns."""
        for option in self._request.cache_to:
            if option.type == "inline" or records is None:
                continue
            try:
                with shown(self._emit, f"exporting cache to {_CACHE_KINDS[option.type]}") as view:
                    await self._export_cache(option, records, view)
            except BlobLost:
                raise
            except (InlayError, OSError) as error:
                if not option.flag("ignore-error"):
                    if isinstance(error, OSError):
                        raise ExportError(f"cannot export the cache: {system_error(error)}") from error
                    raise
                self._emit(Warned("", f"the cache was not exported: {error}"))

    async def _export_cache(self, option: Option, records: Export, view: Shown) -> None:
        with view.status("preparing build cache for export"):
            mode: Mode = "max" if option.get("mode") == "max" else "min"
            graph = await with_results(records, self._chain_of(_codec(option)), mode)
            graph = await self._forced_results(graph, option)
            cache, graph, left_out = cut(graph, records.targets, lambda rest: _cache_manifest(rest, option))
        if left_out:
            view.warn(_told(left_out))
        if cache is None:
            with view.status("skipping cache export for empty result"):
                return
        blobs = [*_cache_blobs(graph, self._content), bytes_blob(cache.config_descriptor, cache.config)]
        if option.type == "registry":
            name = _name(option.get("ref"), "--cache-to")
            place, destination = self._places.registry(name), self._places.repository(name)
            tag, location, host = name.tag, place.location, name.domain
        else:
            from inlay.layout import LayoutFolder

            os.makedirs(option.get("dest"), exist_ok=True)
            destination = LayoutFolder(option.get("dest"))  # type: ignore[assignment]
            tag, location, host = option.get("tag") or "latest", "", ""
        with view.status("writing layers and config"):
            await push_blobs(destination, blobs, self._limiter, location=location, host=host)
        with view.status(f"writing cache manifest {Digest.of(cache.raw)}"):
            await in_thread(destination.push_manifest, cache.raw, cache.media_type, tag)
        if option.type == "local" and option.flag("reset"):
            await self._reset(option.get("dest"), view)

    async def _reset(self, path: str, view: Shown) -> None:
        """Delete what no cache in the folder `path` needs."""
        from inlay.layout import LayoutFolder

        try:
            with view.status("deleting what is no longer needed"):
                await in_thread(LayoutFolder(path).delete_unreferenced)
        except (InlayError, OSError) as error:
            view.warn(f"old blobs in {path} are still there: {error}")

    # -- files ---------------------------------------------------------------------------------------

    async def _write_folder(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> Written:
        from inlay.export.files import write_folder

        for each, folder in zip(built, _folders(output, built), strict=True):
            dest = os.path.join(output.option.get("dest"), folder)
            if each.ref.layers:
                await in_thread(write_folder, await self._refs.mounted.tree(each.ref), dest)
            else:
                os.makedirs(dest, exist_ok=True)
        return Written()

    async def _write_tar(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> Written:
        from inlay.export.files import write_tar
        from inlay.export.newfile import NewFile

        views = [(await self._refs.mounted.view(each.ref)).fd if each.ref.layers else None for each in built]
        sources = list(zip(_folders(output, built), views, strict=True))
        with NewFile(output.option.get("dest")) as out:
            await in_thread(write_tar, sources, out)
        return Written()


def _folders(output: Output, built: Sequence[BuiltPlatform]) -> list[str]:
    """The folder of each platform's files: one for each of several, none for one, unless that is asked for."""
    split = output.option.flag("platform-split", default=len(built) > 1)
    if len(built) > 1 and not split:
        raise ExportError(
            "the files of several platforms need folders of their own: leave platform-split away"
        )
    return [format_platform(each.platform).replace("/", "_") if split else "" for each in built]


def _cache_blobs(graph: RecordGraph, content: ContentStore) -> list[Blob]:
    """The layers of all results, each once."""
    blobs: dict[str, Blob] = {}
    for node in graph:
        for chain, _ in node.results:
            for each in chain.chains():
                digest = str(each.descriptor.digest)
                if digest not in blobs:
                    blobs[digest] = stored_blob(
                        each.descriptor, cast("Source | None", each.provider), content
                    )
    return list(blobs.values())


def _image_layer(layer: Layer) -> ImageLayer:
    assert layer.blob is not None
    assert layer.diff_id is not None
    return ImageLayer(layer.blob, layer.diff_id, layer.created, layer.description)


def layer_codec(request: BuildRequest, outputs: Sequence[Output]) -> Codec | None:
    """How the layers of an image are packed first; None where nothing wants them packed."""
    options = [each.option for each in outputs if each.is_image] + list(request.cache_to)
    packing = [option for option in options if option.type not in ("cacheonly", "inline")]
    return _codec(packing[0]) if packing else None


def _codec(option: Option) -> Codec:
    from inlay.archive.codecs import Gzip, Uncompressed, Zstd

    kind, level = option.get("compression") or "gzip", option.get("compression-level")
    codecs: dict[str, Callable[..., Codec]] = {"gzip": Gzip, "zstd": Zstd}
    if kind == "uncompressed":
        return Uncompressed()
    return codecs[kind](int(level)) if level else codecs[kind]()


def _cache_manifest(graph: RecordGraph, option: Option) -> CacheManifest | None:
    oci = option.flag("oci-mediatypes", default=True)
    image_manifest = option.flag("image-manifest", default=oci)
    return cache_manifest(graph, image_manifest=image_manifest, oci_media_types=oci)


def _told(left_out: Sequence[Chain]) -> str:
    """What a cache lacks, for people to read."""
    steps = [chain.descriptor.annotation(DESCRIPTION) or str(chain.descriptor.digest) for chain in left_out]
    shown = "; ".join(f"{step!r:.60}" for step in steps[:10]) + ("; …" if len(steps) > 10 else "")
    return (
        f"the results of {len(steps)} steps are left out of the cache, which BuildKit would not import if it had "
        f"more than 1 MiB of records: {shown}"
    )


def _written(made: _Made) -> Written:
    config = "" if made.several is not None else str(made.images[0].manifest.config.digest)
    return Written(str(made.top.digest), config)


def _list(
    folder: Any, raw: bytes, media_type: str, name: Reference | None, notes: dict[str, str], full_name: bool
) -> None:
    """List an image in a layout: in the store under its full name, elsewhere as it was written."""
    if name is None:
        folder.push_manifest(raw, media_type, "" if full_name else "latest", notes=notes)
    else:
        ref = str(name) if full_name else name.tag
        folder.push_manifest(raw, media_type, ref, name=str(name), notes=notes)
