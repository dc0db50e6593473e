"""What docker's archives have besides an OCI layout."""

from __future__ import annotations

import json

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.export.image import Image
    from inlay.reference import Reference


def docker_manifest(image: Image, names: Sequence[Reference]) -> bytes:
    """The `manifest.json` that `docker load` reads: paths of the config and the layers in the archive."""

    def path(digest: str) -> str:
        return "blobs/" + digest.replace(":", "/")

    entry = {
        "Config": path(image.manifest.config.digest),
        "RepoTags": [name.familiar for name in names] or None,
        "Layers": [path(layer.digest) for layer in image.manifest.layers],
    }
    return json.dumps([entry], separators=(",", ":")).encode()
