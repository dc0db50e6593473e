"""What a conversion asks of the world: image configs, and little else. All of it is behind one object."""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.digest import Digest
    from inlay.llb.ops import SourceOp
    from inlay.platform import Platform


class ImageRequest(NamedTuple):
    """An image to look up.

    `platform` None is the machine's. `store` names the OCI layout that has it; empty for a registry.
    """

    reference: str
    """With a tag or a digest, or both: `docker.io/library/alpine:latest`."""
    platform: Platform | None
    mode: str = "default"
    """`pull` to ask the registry first, `local` to prefer what is here."""
    store: str = ""
    log_name: str = ""
    """What progress shows."""


class ResolvedImage(NamedTuple):
    """What a reference led to at the top (an index, where it is one), and the config for the platform."""

    digest: Digest
    config: bytes


class Resolver:
    """Answers a conversion's questions. The methods are called from the thread that converts, and may block.

    This one knows no image; everything else it answers as for a build of a local folder without ignore files.
    """

    def prefetch(self, requests: Sequence[ImageRequest]) -> None:
        """Told before `resolve` which images will be asked for, so that they can be looked up at once."""

    def resolve(self, request: ImageRequest) -> ResolvedImage:
        """Look up an image. Any `InlayError` becomes a `DockerfileError` at the FROM that wants it."""
        from inlay.errors import NotFound

        raise NotFound(f"{request.reference}: not found", reference=request.reference)

    def dockerignore(self, name: str) -> bytes | None:
        """The `.dockerignore` of the named context `local:name`."""
        return None

    def is_archive(self, source: SourceOp) -> bool:
        """Whether the http context is a tar archive, compressed or not; else it is a Dockerfile."""
        return True

    def time_of(self, source: SourceOp) -> int | None:
        """When a git or http source was made, in seconds since 1970: for `SOURCE_DATE_EPOCH=context`."""
        return None
