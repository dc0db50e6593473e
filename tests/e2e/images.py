"""Looking into images that a test built."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class BuiltImage(NamedTuple):
    """An image of one platform in an OCI layout: its config, and its layers as uncompressed tars."""

    config: dict[str, Any]
    layers: list[bytes]

    @classmethod
    def read(cls, layout: Path) -> BuiltImage:
        def blob(descriptor: dict[str, str]) -> bytes:
            return (layout / "blobs/sha256" / descriptor["digest"][7:]).read_bytes()

        index = json.loads((layout / "index.json").read_text())
        manifest = json.loads(blob(index["manifests"][0]))
        layers = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
        return cls(json.loads(blob(manifest["config"])), layers)

    def names(self, first: int = 0) -> set[str]:
        """The names of all members of the layers from `first` on."""
        found: set[str] = set()
        for layer in self.layers[first:]:
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                found |= set(archive.getnames())
        return found


def files_with(folder: Path, data: bytes) -> list[str]:
    """The files below `folder` that hold `data`, as they are or in a gzip stream, or have it in their name."""
    found = []
    for path in folder.rglob("*"):
        if data in bytes(path):
            found.append(str(path))
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if content[:2] == b"\x1f\x8b":
                content += gzip.decompress(content)
            if data in content:
                found.append(str(path))
    return found
