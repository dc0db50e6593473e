"""What a build has made, as images and as caches carry it: packed, and compressed as an option wants it."""

from __future__ import annotations

from inlay.errors import CacheError, InlayError
from inlay.export.image import ImageLayer, assemble, assemble_index
from inlay.export.plan import codec_of, inline_mode
from inlay.export.publish import Referrer, bytes_blob, stored_blob
from inlay.oci.image import ImageConfig
from inlay.typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.archive.codecs import Codec
    from inlay.cache.results import ChainOf
    from inlay.content.store import ContentStore
    from inlay.errors import BlobLost
    from inlay.export.image import Image
    from inlay.export.plan import Output
    from inlay.export.publish import Blob
    from inlay.export.recompress import Recompressor
    from inlay.oci.image import Index, Manifest
    from inlay.platform import Platform
    from inlay.progress.report import Shown
    from inlay.refs.ref import Layer, Ref, Source
    from inlay.refs.store import RefStore
    from inlay.request import BuildRequest, Option
    from inlay.solver.export import Export
    from inlay.solver.keys import CacheRecord, Chain, RecordGraph


class BuiltPlatform(NamedTuple):
    """What was built for one platform. `config` is the frontend's image config, `base` the base image's."""

    platform: Platform
    config: bytes
    base: bytes | None
    ref: Ref
    records: Export | None


class MadeImages(NamedTuple):
    """An image for each platform, the index of `several`, and for each image its layers and the cache to lie
    beside it."""

    images: Sequence[Image]
    several: Index | None
    layers: Sequence[Sequence[Layer]]
    caches: Sequence[Referrer | None]

    @property
    def top(self) -> Manifest | Index:
        """What names the image: the index, or the only manifest."""
        return self.images[0].manifest if self.several is None else self.several


class Results:
    """Makes images and cache results of one build's layers, each once. Lives on the loop's thread."""

    def __init__(
        self,
        request: BuildRequest,
        refs: RefStore,
        content: ContentStore,
        *,
        epoch_s: Callable[[], int | None],
    ) -> None:
        self._annotations = request.annotations
        self._inline = inline_mode(request)
        self._refs = refs
        self._content = content
        self._epoch_s = epoch_s
        self._recompressors: dict[str, Recompressor] = {}

    # -- images --------------------------------------------------------------------------------------

    async def images(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> MadeImages:
        """Pack what is not packed, and make manifests and configs."""
        codec = codec_of(output.option)
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
        notes = self.annotated("index")
        index = assemble_index(images, docker=output.docker, annotations=notes) if len(images) > 1 else None
        return MadeImages(images, index, [each.ref.layers for each in built], [cache for _, cache in made])

    async def _image(
        self, built: BuiltPlatform, output: Output, view: Shown
    ) -> tuple[Image, Referrer | None]:
        """The image for one platform, and the cache to lie beside it."""
        layers = [_image_layer(layer) for layer in built.ref.layers]
        graph: RecordGraph = []
        if self._inline and built.records is not None:
            graph = await self._inline_graph(built.records, output, view)
        cache = _inline_cache(graph, layers) if graph else None
        image = assemble(
            built.config,
            layers,
            built.platform,
            inline_cache=cache,
            epoch_s=self._epoch_s(),
            base_history=ImageConfig.parse(built.base).history if built.base else (),
            docker=output.docker,
            annotations=self.annotated("manifest", built.platform),
        )
        notes = self.annotated("manifest-descriptor", built.platform)
        image = image._replace(notes=tuple(sorted(notes.items())))
        return image, self._beside(image, graph) if cache and self._inline == "max" else None

    async def _inline_graph(self, records: Export, output: Output, view: Shown) -> RecordGraph:
        """What the inline cache is made of. In mode max all is packed first: then it is the same for who packs
        a layer and who finds it packed."""
        from inlay.cache.results import with_results

        chain_of = self.chain_of(codec_of(output.option))
        if self._inline == "max":
            try:
                with view.status("exporting layers of other stages"):
                    graph = await with_results(records, chain_of, "max")
                    return await self.forced_results(graph, output.option)
            except (InlayError, OSError) as error:
                view.warn(f"the cache has no layers of other stages: {error}")
        return await self.forced_results(await with_results(records, chain_of, "min"), output.option)

    def _beside(self, image: Image, graph: RecordGraph) -> Referrer | None:
        """The cache to lie beside `image`; None where the image itself has all its layers."""
        from inlay.cache.manifest import cache_manifest

        cache = cache_manifest(graph, subject=image.manifest.descriptor)
        own = {layer.digest for layer in image.manifest.layers}
        if cache is None or own >= {layer.digest for layer in cache.layers}:
            return None
        layers = self.cache_blobs(graph)
        config = bytes_blob(cache.config_descriptor, cache.config)
        return Referrer(image.manifest.digest, cache.raw, cache.descriptor, layers, config)

    def annotated(self, level: str, platform: Platform | None = None) -> dict[str, str]:
        """The annotations that were asked for at one level."""
        if not self._annotations:
            return {}
        from inlay.export.annotations import at_level, parse_annotations

        return at_level(parse_annotations(self._annotations), level, platform)

    def notes_of(self, made: MadeImages) -> dict[str, str]:
        """Annotations for what names the image in a layout."""
        if made.several is not None:
            return self.annotated("index-descriptor")
        return dict(made.images[0].notes)

    # -- what caches carry ---------------------------------------------------------------------------

    def chain_of(self, codec: Codec) -> ChainOf:
        """Finds the layers of a record's result; packs them by `codec`."""

        async def find(record: CacheRecord, *, pack: bool) -> Chain | None:
            try:
                ref = self._refs.recall(record.id)
                if pack:
                    await self._refs.packing.blobs(ref, codec)
            except CacheError:
                return None
            return self._refs.chain(ref)

        return find

    def cache_blobs(self, graph: RecordGraph) -> list[Blob]:
        """The layers of all results, each once."""
        layers = [part for node in graph for chain, _ in node.results for part in chain.chains()]
        blobs: dict[str, Blob] = {}
        for each in layers:
            if str(each.descriptor.digest) not in blobs:
                source = cast("Source | None", each.provider)
                blobs[str(each.descriptor.digest)] = stored_blob(each.descriptor, source, self._content)
        return list(blobs.values())

    # -- force-compression ---------------------------------------------------------------------------

    async def _forced(self, ref: Ref, option: Option) -> Ref:
        """`ref`, all of whose layers have blobs, as `option` wants them compressed."""
        return await self._recompressor(option).convert(ref) if option.is_forced else ref

    def can_be_made_again(self, error: BlobLost) -> bool:
        """Whether a solve without the lost blob would run a step for it."""
        return self._refs.availability.can_be_made_again(error)

    async def forced_results(self, graph: RecordGraph, option: Option) -> RecordGraph:
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

        codec = codec_of(option)
        if codec.media_type not in self._recompressors:
            self._recompressors[codec.media_type] = Recompressor(
                self._refs, self._content, self._refs.database, codec
            )
        return self._recompressors[codec.media_type]


def _image_layer(layer: Layer) -> ImageLayer:
    assert layer.blob is not None
    assert layer.diff_id is not None
    return ImageLayer(layer.blob, layer.diff_id, layer.created, layer.description)


def _inline_cache(graph: RecordGraph, layers: Sequence[ImageLayer]) -> str | None:
    from inlay.cache.inline import inline_cache

    return inline_cache(graph, [str(layer.blob.digest) for layer in layers])
