"""Layers on their way while later steps still run: packed as soon as they are made, pushed as soon as packed.

Nothing depends on it: what fails here, the export does itself afterwards, and says what is wrong. A build that
ends early leaves blobs in a registry that no manifest names, as any push that breaks off does.
"""

from __future__ import annotations

from inlay.errors import InlayError
from inlay.export.publish import layer_blob, push_blobs
from inlay.tasks import all_done, spawn
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.archive.codecs import Codec
    from inlay.content.store import ContentStore
    from inlay.reference import Reference
    from inlay.refs.ref import Layer, Ref
    from inlay.refs.store import RefStore
    from inlay.sources.places import Places
    from inlay.tasks import Limiter, Task


class Shipping:
    """The layers of one build on their way to the repositories of `names`. Lives on the loop's thread."""

    def __init__(
        self,
        refs: RefStore,
        content: ContentStore,
        places: Places,
        limiter: Limiter,
        names: Sequence[Reference],
    ) -> None:
        self._refs = refs
        self._content = content
        self._places = places
        self._limiter = limiter
        self._names = names
        self._begun: dict[int, Task[None]] = {}
        self.arrived: set[tuple[str, str]] = set()
        """Repositories and digests of the blobs that they have."""

    def take(self, ref: Ref, codec: Codec) -> None:
        """Begin to ship the layers of `ref`, the last of which was made just now, that were not begun with yet.
        Does not wait."""
        for layer in ref.layers:
            if id(layer) not in self._begun:
                self._begun[id(layer)] = spawn(self._ship(layer, codec, is_new=layer is ref.layers[-1]))

    async def done(self) -> None:
        """Wait until nothing is on its way."""
        await all_done(self._begun.values())

    async def _ship(self, layer: Layer, codec: Codec, *, is_new: bool) -> None:
        try:
            await self._refs.packing.pack(layer, codec)
            for name in self._names:
                location = self._places.registry(name).location
                blob = layer_blob(layer, self._content)._replace(is_new=is_new)
                await push_blobs(
                    self._places.repository(name),
                    [blob],
                    self._limiter,
                    location=location,
                    host=name.domain,
                    abort=self._places.cancel,
                )
                self.arrived.add((location, str(blob.descriptor.digest)))
        except (InlayError, OSError):
            return
