"""Sources that are fetched by URL: opened by their ops, each once in a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from inlay.llb.ops import SourceOp
    from inlay.refs import RefStore
    from inlay.snapshot.snapshotter import Snapshotter
    from inlay.sources.downloads import Downloads
    from inlay.sources.http import HttpSource
    from inlay.sources.places import Places

    class Credentials(Protocol):
        """What the caller of a build has given to be let in with."""

        def value(self, name: str) -> bytes | None:
            """A secret; None where none of that name was given."""


class RemoteSources:
    """Where http sources of one build come from. May be asked from several threads."""

    schemes = ("http", "https")

    def __init__(
        self, root: str, snapshotter: Callable[[], Snapshotter], places: Places, credentials: Credentials
    ) -> None:
        self._root = root
        self._snapshotter = snapshotter
        self._places = places
        self._credentials = credentials
        self._downloads: Downloads | None = None

    def open(self, op: SourceOp, refs: RefStore) -> HttpSource:
        """The source that `op` describes. Raises `SourceError`."""
        if op.scheme in ("http", "https"):
            from inlay.sources.http import HttpSource

            return HttpSource(op, self.downloads, refs)
        raise SourceError(f"{op.identifier}: sources of this kind cannot be fetched")

    @property
    def downloads(self) -> Downloads:
        if self._downloads is None:
            from inlay.sources.downloads import Downloads

            self._downloads = Downloads(
                self._root, self._snapshotter, lambda: self._places.transport, self._credentials.value
            )
        return self._downloads
