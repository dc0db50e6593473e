"""Writes what was planned: images to registries, the store, layouts and archives; files; caches."""

from __future__ import annotations

import os

from inlay.errors import BlobLost, ContentError, ExportError, InlayError
from inlay.export.publish import config_blob, image_blobs, layer_blobs, push_blobs, push_images, push_referrer
from inlay.export.results import Results
from inlay.golang.text import parse_bool
from inlay.progress.report import shown
from inlay.tasks import Limiter, in_thread, spawn
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from inlay.archive.codecs import Codec
    from inlay.content.store import ContentStore
    from inlay.export.opening import Opening
    from inlay.export.plan import Output
    from inlay.export.publish import Blob, Destination
    from inlay.export.results import BuiltPlatform, MadeImages
    from inlay.export.shipping import Shipping
    from inlay.progress.events import Event
    from inlay.progress.report import Shown
    from inlay.reference import Reference
    from inlay.refs.ref import Ref
    from inlay.refs.store import RefStore
    from inlay.request import BuildRequest
    from inlay.solver.export import Export
    from inlay.sources.places import Places

TRANSFERS = 8
"""Blobs that are pushed at the same time."""

_TITLES = {"image": "exporting to image", "local": "copying files", "tar": "sending tarball"}


class Written(NamedTuple):
    """Digests of what was written; empty where it is no image."""

    digest: str = ""
    config_digest: str = ""


class Exporter:
    """Writes `outputs` of one build, and its caches. Lives on the loop's thread."""

    def __init__(
        self,
        request: BuildRequest,
        outputs: Sequence[Output],
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
        self._outputs = outputs
        self._refs = refs
        self._places = places
        self._root = root
        self._content = content
        self._emit = emit
        self._results = Results(request, refs, content, epoch_s=epoch_s)
        self._limiter = Limiter(TRANSFERS)
        self._opening: Opening | None = None
        """Uploads that were opened ahead, if any were."""
        self._shipping: Shipping | None = None
        """Layers that were sent ahead, if any were."""

    def ship(self, ref: Ref, codec: Codec) -> None:
        """Send layers that will be of an image ahead of it, while later steps still run."""
        if self._shipping is None:
            from inlay.export.shipping import Shipping

            pushed = [each for each in self._outputs if each.is_pushed and not each.option.is_forced]
            names = [name for each in pushed for name in each.names]
            self._shipping = Shipping(self._refs, self._content, self._places, self._limiter, names)
        self._shipping.take(ref, codec)

    def open_uploads(self, count: int) -> None:
        """Open uploads for `count` blobs that are still to be made, wherever images are pushed to. Does not wait.

        A build that fails leaves them to the registries, which put an end to what nothing comes to.
        """
        from inlay.export.opening import Opening

        names = [name for output in self._outputs if output.is_pushed for name in output.names]
        places = {(name.domain, name.path): self._places.repository(name) for name in names}
        self._opening = Opening(list(places.values()), count)

    async def close(self) -> None:
        """Give up the uploads that were opened and not used."""
        if self._opening is not None:
            await self._opening.close()

    async def write(self, built: Sequence[BuiltPlatform]) -> list[Written]:
        """Write every output. Raises `ExportError`, `RegistryError`."""
        return [await self._write(output, built) for output in self._outputs]

    async def export_caches(self, records: Export | None) -> None:
        """Write what `--cache-to` asks for, but for inline caches. Raises `ExportError`, `RegistryError`;
        with `ignore-error=true` only warns."""
        options = [option for option in self._request.cache_to if option.type != "inline"]
        if not options or records is None:
            return
        from inlay.export.caches import CacheExporter

        exporter = CacheExporter(self._results, self._places, self._limiter, self._emit)
        for option in options:
            await exporter.export(option, records)

    async def _write(self, output: Output, built: Sequence[BuiltPlatform]) -> Written:
        writers: dict[str, Callable[[Output, Sequence[BuiltPlatform], Shown], Awaitable[Written]]] = {
            "image": self._write_image,
            "oci": self._write_layout,
            "docker": self._write_archive,
            "local": self._write_folder,
            "tar": self._write_tar,
        }
        kind = output.option.type
        if kind == "cacheonly":
            return Written()
        title = _TITLES.get(kind, f"exporting to {kind} image format")
        try:
            with shown(self._emit, title) as view:
                return await writers[kind](output, built, view)
        except OSError as error:
            where = output.option.get("dest") or ", ".join(map(str, output.names))
            raise ExportError(f"cannot write {where}: {(error.strerror or str(error)).lower()}") from error
        except BlobLost:
            raise
        except ContentError as error:
            raise ExportError(str(error)) from error

    # -- to registries and the store -----------------------------------------------------------------

    async def _write_image(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> Written:
        made = await self._results.images(output, built, view)
        if output.option.flag("push"):
            for name in output.names:
                await self._push(name, made, view)
        elif parse_bool(output.option.get("store", "true")) is not False:
            await self._into_layout(self._root, output, made, view)
        return _written(made)

    async def _push(self, name: Reference, made: MadeImages, view: Shown) -> None:
        place = self._places.registry(name)
        repository = self._places.repository(name)
        # An image that layers were sent ahead for is a new one: to push it is no more than to ask.
        if self._shipping is None and await in_thread(repository.has_manifest, made.top.descriptor, name.tag):
            with view.status(f"{name}@{made.top.digest} is there already"):
                pass
            return await self._lay_beside(made, repository, view, location=place.location, host=name.domain)
        with view.status("pushing layers"):
            configs = spawn(
                push_blobs(repository, [config_blob(each) for each in made.images], self._limiter)
            )
            for layers in made.layers:
                blobs = await self._left_behind(layer_blobs(layers, self._content), place.location)
                await push_blobs(repository, blobs, self._limiter, location=place.location, host=name.domain)
            await configs
        with view.status(f"pushing manifest for {name}@{made.top.digest}"):
            await push_images(repository, made.images, made.several, [name.tag])
        return await self._lay_beside(made, repository, view, location=place.location, host=name.domain)

    async def _left_behind(self, blobs: Sequence[Blob], location: str) -> list[Blob]:
        """Those of `blobs` that were not sent ahead."""
        if self._shipping is None:
            return list(blobs)
        await self._shipping.done()
        arrived = self._shipping.arrived
        return [blob for blob in blobs if (location, str(blob.descriptor.digest)) not in arrived]

    async def _lay_beside(
        self, made: MadeImages, destination: Destination, view: Shown, *, location: str = "", host: str = ""
    ) -> None:
        """Push what is to lie beside the images; whatever is wrong with that is a warning."""
        for cache in filter(None, made.caches):
            try:
                with view.status(f"pushing cache of other stages of {cache.subject}"):
                    await push_referrer(destination, cache, self._limiter, location=location, host=host)
            except (InlayError, OSError) as error:
                view.warn(f"the layers of other stages are not kept beside the image: {error}")

    async def _into_layout(self, path: str, output: Output, made: MadeImages, view: Shown) -> None:
        """Write to a layout folder, and list the image there: in the store by its full name, elsewhere by its
        tag."""
        from inlay.layout import LayoutFolder

        os.makedirs(path, exist_ok=True)
        folder, notes = LayoutFolder(path), self._results.notes_of(made)
        for image, layers in zip(made.images, made.layers, strict=True):
            await push_blobs(folder, image_blobs(image, layers, self._content), self._limiter)
        for image in made.images if made.several is not None else ():
            await in_thread(folder.push_manifest, image.manifest.raw, image.manifest.media_type)

        def name_it(name: Reference | None) -> None:
            ref = "latest" if name is None else name.tag
            if path == self._root:
                ref = str(name or "")
            folder.push_manifest(made.top.raw, made.top.media_type, ref, name=str(name or ""), notes=notes)

        for name in output.names or (None,):
            with view.status(f"naming to {name}" if name else f"writing {path}"):
                await in_thread(name_it, name)
        await self._lay_beside(made, folder, view)

    # -- layouts and archives ------------------------------------------------------------------------

    async def _write_layout(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> Written:
        if output.option.flag("tar", default=True):
            return await self._write_archive(output, built, view)
        made = await self._results.images(output, built, view)
        await self._into_layout(output.option.get("dest"), output, made, view)
        return _written(made)

    async def _write_archive(self, output: Output, built: Sequence[BuiltPlatform], view: Shown) -> Written:
        if output.option.type == "docker" and len(built) > 1:
            raise ExportError("a docker archive holds one platform; use type=oci for several")
        from inlay.export.archives import write_image_archive

        made = await self._results.images(output, built, view)
        await in_thread(write_image_archive, output, made, self._content, self._results.notes_of(made))
        return _written(made)

    # -- files ---------------------------------------------------------------------------------------

    async def _write_folder(self, output: Output, built: Sequence[BuiltPlatform], _: Shown) -> Written:
        from inlay.export.files import platform_folders, write_folder

        for each, folder in zip(built, platform_folders(output, built), strict=True):
            dest = os.path.join(output.option.get("dest"), folder)
            if each.ref.layers:
                await in_thread(write_folder, await self._refs.mounted.tree(each.ref), dest)
            else:
                os.makedirs(dest, exist_ok=True)
        return Written()

    async def _write_tar(self, output: Output, built: Sequence[BuiltPlatform], _: Shown) -> Written:
        from inlay.export.files import platform_folders, write_tar
        from inlay.export.newfile import NewFile

        views = [(await self._refs.mounted.view(each.ref)).fd if each.ref.layers else None for each in built]
        sources = list(zip(platform_folders(output, built), views, strict=True))
        with NewFile(output.option.get("dest")) as out:
            await in_thread(write_tar, sources, out)
        return Written()


def _written(made: MadeImages) -> Written:
    config = "" if made.several is not None else str(made.images[0].manifest.config.digest)
    return Written(str(made.top.digest), config)
