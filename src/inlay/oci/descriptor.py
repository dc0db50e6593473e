"""Descriptors: how manifests, indexes and caches name a blob (OCI image spec, "Content Descriptors")."""

from __future__ import annotations

from inlay.digest import Digest
from inlay.errors import ContentError
from inlay.platform import Platform
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)

TO_DOCKER = {OCI_LAYER: DOCKER_LAYER, OCI_LAYER_GZIP: DOCKER_LAYER_GZIP, OCI_LAYER_ZSTD: DOCKER_LAYER_ZSTD}
"""Media types of layers: OCI's to docker's."""
TO_OCI = {docker: oci for oci, docker in TO_DOCKER.items()}

UNCOMPRESSED = "containerd.io/uncompressed"
"""Annotation of a layer: its diff id."""
CREATED_AT = "buildkit/createdat"
"""Annotation of a layer: when it was made, RFC 3339 with nanoseconds."""
DESCRIPTION = "buildkit/description"
"""Annotation of a layer: the step that made it."""
REF_NAME = "org.opencontainers.image.ref.name"


class Descriptor(NamedTuple):
    """A blob by digest and size in bytes. `annotations` are (name, value) pairs, sorted by name."""

    media_type: str
    digest: Digest
    size: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: Platform | None = None
    artifact_type: str = ""

    @classmethod
    def parse(cls, value: object) -> Descriptor:
        """Check a descriptor out of JSON; raise `ContentError` where a field is not what it must be."""
        if not isinstance(value, dict):
            raise ContentError(f"a descriptor must be an object, not {value!r:.60}")
        size, media_type, digest = value.get("size"), value.get("mediaType", ""), value.get("digest")
        if type(size) is not int or size < 0:
            raise ContentError(f"a descriptor's size must be a number of bytes, not {size!r:.60}")
        if not isinstance(media_type, str):
            raise ContentError(f"a descriptor's mediaType must be text, not {media_type!r:.60}")
        annotations = value.get("annotations")
        platform = value.get("platform")
        return cls(
            media_type,
            Digest.parse(digest if isinstance(digest, str) else ""),
            size,
            _pairs(annotations) if annotations else (),
            Platform.from_json(platform) if isinstance(platform, dict) else None,
            str(value.get("artifactType") or ""),
        )

    def to_json(self) -> dict[str, Any]:
        """Fields in the order in which Go's OCI types write them."""
        fields: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.platform is not None:
            fields["platform"] = self.platform.to_json()
        if self.artifact_type:
            fields["artifactType"] = self.artifact_type
        return fields

    def annotation(self, name: str) -> str:
        return next((value for key, value in self.annotations if key == name), "")

    def annotated(self, more: Mapping[str, str]) -> Descriptor:
        """The same blob with `more` annotations; a name that is already there gets the new value."""
        return self._replace(annotations=tuple(sorted({**dict(self.annotations), **more}.items())))


def _pairs(annotations: object) -> tuple[tuple[str, str], ...]:
    if isinstance(annotations, dict):
        for value in annotations.values():
            if type(value) is not str:
                break
        else:
            return tuple(sorted(annotations.items()))
    raise ContentError("a descriptor's annotations must map text to text")
