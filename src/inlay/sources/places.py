"""Where images and blobs come from: the local store, registries, OCI layouts. Each place has a text
(`location`) by which a later build finds it again."""

from __future__ import annotations

import os

from inlay.errors import ContentError, UsageError
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.content.store import BlobSource
    from inlay.digest import Digest
    from inlay.layout import Layout
    from inlay.oci.descriptor import Descriptor
    from inlay.oci.image import Index, Manifest
    from inlay.reference import Reference
    from inlay.refs.ref import ImagePlace
    from inlay.registry.dial import Abort
    from inlay.registry.repository import Repository
    from inlay.registry.transport import Transport


class Place(NamedTuple):
    """A `refs.Source`: images, their blobs, and the text that names the place."""

    location: str
    blobs: BlobSource
    images: ImagePlace


class Places:
    """Opens places by reference or location, each once. Registries are set up when first asked for."""

    def __init__(
        self,
        root: str,
        *,
        insecure_registries: Sequence[str] = (),
        registry_mirrors: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`registry_mirrors`: a registry's host, and what to ask before it: a host with an optional scheme and
        path; the first one of a registry first."""
        self._root = root
        self._insecure = insecure_registries
        self._mirrors = registry_mirrors
        self._transport: Transport | None = None
        self._open: dict[str, Place] = {}
        self._layouts: list[Layout] = []

    @property
    def transport(self) -> Transport:
        if self._transport is None:
            from inlay.registry.transport import Settings, Transport

            mirrors: dict[str, tuple[str, ...]] = {}
            insecure = set(self._insecure)
            for registry, mirror in self._mirrors:
                scheme, separator, place = mirror.rpartition("://")
                mirrors[registry] = (*mirrors.get(registry, ()), place)
                if separator and scheme == "http":
                    insecure.add(f"http://{place.partition('/')[0]}")
            self._transport = Transport(Settings(insecure=frozenset(insecure), mirrors=mirrors))
        return self._transport

    @property
    def bytes_pulled(self) -> int:
        return self._transport.traffic.pulled if self._transport is not None else 0

    @property
    def bytes_pushed(self) -> int:
        return self._transport.traffic.pushed if self._transport is not None else 0

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        for layout in self._layouts:
            layout.close()
        self._layouts.clear()

    def cancel(self) -> None:
        """End all transfers soon."""
        if self._transport is not None:
            self._transport.cancel()

    def repository(self, reference: Reference) -> Repository:
        from inlay.registry.repository import Repository

        return Repository(reference.domain, reference.path, self.transport)

    def registry(self, reference: Reference) -> Place:
        """The repository that `reference` is in."""
        location = f"registry:{reference.domain}/{reference.path}"
        if location not in self._open:
            repository = self.repository(reference)
            self._open[location] = Place(location, repository, repository)
        return self._open[location]

    def cache_registry(self, reference: Reference, abort: Abort) -> Place:
        """Where an imported cache is: what was built here under that name, or its registry; `abort` ends the
        reading of manifests and configs there."""
        if os.path.exists(f"{self._root}/index.json"):
            store = self.layout(self._root)
            name = str(reference if reference.tag or reference.digest else reference._replace(tag="latest"))
            try:
                store.images.fetch_manifest(name)
            except ContentError:
                pass
            else:
                return named(store, name)
        place = self.registry(reference)
        return place._replace(images=self.repository(reference).within(abort))

    def layout(self, path: str) -> Place:
        """An OCI layout, a folder or an archive. Raises `ContentError` where it is none."""
        location = f"layout:{os.path.abspath(path)}"
        if location not in self._open:
            layout = self._layout(path)
            self._layouts.append(layout)
            self._open[location] = Place(location, layout, layout)
        return self._open[location]

    @staticmethod
    def _layout(path: str) -> Layout:
        from inlay.layout import open_layout

        return open_layout(path)

    def at(self, location: str) -> Place | None:
        """The place that has this location; None when it cannot be opened."""
        kind, _, name = location.partition(":")
        try:
            if kind == "registry":
                from inlay.reference import parse

                return self.registry(parse(name))
            if kind == "layout":
                return self.layout(name)
        except (ContentError, UsageError, OSError):
            return None
        return None


class _Named(NamedTuple):
    """A layout seen as the repository of one image: its tags are the full names of the layout."""

    layout: ImagePlace
    name: str

    def fetch_manifest(self, name: str) -> Manifest | Index:
        return self.layout.fetch_manifest(name if ":" in name else self.name)

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        return self.layout.read_blob(descriptor, limit)

    def referrers(self, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        return self.layout.referrers(subject, artifact_type)


def named(place: Place, name: str) -> Place:
    """`place`, in which only the image of the full name `name` is looked for."""
    return place._replace(images=_Named(place.images, name))
