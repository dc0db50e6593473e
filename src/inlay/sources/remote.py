"""Sources that are fetched by URL: opened by their ops, each once in a build."""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.llb.ops import SourceOp
    from inlay.refs.store import RefStore
    from inlay.snapshot.snapshotter import Snapshotter
    from inlay.sources.credentials import Credentials
    from inlay.sources.downloads import Downloads
    from inlay.sources.git import GitRemotes, GitSource
    from inlay.sources.http import HttpSource
    from inlay.sources.places import Places


class RemoteSources:
    """Where http and git sources of one build come from. May be asked from several threads."""

    schemes = ("http", "https", "git")

    def __init__(
        self,
        root: str,
        snapshotter: Callable[[], Snapshotter],
        refs: Callable[[], RefStore],
        places: Places,
        credentials: Credentials,
    ) -> None:
        self._root = root
        self._snapshotter = snapshotter
        self._refs = refs
        self._places = places
        self._credentials = credentials
        self._downloads: Downloads | None = None
        self._remotes: GitRemotes | None = None

    def open(self, op: SourceOp) -> HttpSource | GitSource:
        """The source that `op` describes. Raises `SourceError`."""
        return self.git(op) if op.scheme == "git" else self.http(op)

    def http(self, op: SourceOp) -> HttpSource:
        from inlay.sources.http import HttpSource

        return HttpSource(op, self.downloads, self._refs)

    def git(self, op: SourceOp) -> GitSource:
        from inlay.sources.git import GitSource

        return GitSource(op, self.remotes, self._refs)

    def cancel(self) -> None:
        """End all that goes on soon. (What goes through `places` ends with that.)"""
        if self._remotes is not None:
            self._remotes.cancel()

    def close(self) -> None:
        """Delete what is of no use to later builds."""
        if self._downloads is not None:
            self._downloads.close()

    @property
    def downloads(self) -> Downloads:
        if self._downloads is None:
            from inlay.sources.downloads import Downloads

            self._downloads = Downloads(
                self._root, self._snapshotter, lambda: self._places.transport, self._credentials.value
            )
        return self._downloads

    @property
    def remotes(self) -> GitRemotes:
        if self._remotes is None:
            from inlay.sources.git import GitRemotes
            from inlay.sources.gitaccess import GitAccess

            access = GitAccess(self._credentials, lambda: self._places.transport)
            self._remotes = GitRemotes(self._root, self._snapshotter, access)
        return self._remotes
