"""Archives: an image, or one for each of several platforms, as a tar that is an OCI layout."""

from __future__ import annotations

import json

from inlay.digest import Digest
from inlay.export.newfile import NewFile
from inlay.export.publish import bytes_blob, image_blobs
from inlay.layout import IMAGE_NAME, write_archive
from inlay.oci.descriptor import OCI_INDEX, REF_NAME, Descriptor
from inlay.oci.referrers import referrers_tag, with_referrer
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inlay.content.store import ContentStore
    from inlay.export.image import Image
    from inlay.export.plan import Output
    from inlay.export.results import MadeImages
    from inlay.reference import Reference


def write_image_archive(
    output: Output, made: MadeImages, content: ContentStore, notes: Mapping[str, str]
) -> None:
    """Write `made` to the file that `output` names, listed under its names with the annotations `notes`; for
    docker with the file that `docker load` reads."""
    blobs = []
    for image, layers in zip(made.images, made.layers, strict=True):
        blobs += image_blobs(image, layers, content)
        blobs.append(bytes_blob(image.manifest.descriptor, image.manifest.raw))
    top = made.top.descriptor.annotated(notes)
    blobs.append(bytes_blob(top, made.top.raw))
    listed = [top.annotated({IMAGE_NAME: str(name), REF_NAME: name.tag}) for name in output.names] or [top]
    extra = []
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
