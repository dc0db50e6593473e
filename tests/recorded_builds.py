"""The recorded builds, unpacked, and their base images in a registry (tests/vectors/cache/README.md)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import RunningRegistry

VECTORS = Path(__file__).parent / "vectors/cache"
sys.path.insert(0, str(VECTORS.parents[2] / "scripts"))

from vectors import builds  # noqa: E402


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    with tarfile.open(VECTORS / "builds.tar.xz") as archive:
        archive.extraction_filter = lambda member, _: member  # an argument `filter` is new in 3.11.4
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def bases(recordings: Path, docker_registry: RunningRegistry) -> builds.Bases:
    """The recorded base images, with a busybox of this machine in the place of the recorded one."""
    busybox = shutil.which("busybox")
    if busybox is None or shutil.which("skopeo") is None:
        pytest.skip("busybox-static and skopeo are not installed")
    layer = _with_program(recordings / "_base/rootfs.tar", Path(busybox).read_bytes())
    for name in ("busybox", "onbuildbase"):
        _replace_lowest_layer(recordings / "_base" / name, layer)
    pushed = builds.Bases(recordings / "_base", docker_registry.host)
    pushed.push()
    return pushed


def _with_program(rootfs: Path, program: bytes) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(rootfs) as source, tarfile.open(fileobj=layer, mode="w") as target:
        for member in source:
            if member.name == "bin/busybox":
                member.size = len(program)
                target.addfile(member, io.BytesIO(program))
            else:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
    return layer.getvalue()


def _replace_lowest_layer(layout: Path, layer: bytes) -> None:
    """Put `layer` into an OCI layout of one image, whose own lowest layer is left out."""

    def write(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def read(descriptor: dict[str, str]) -> dict[str, object]:
        content: dict[str, object] = json.loads(
            (layout / "blobs/sha256" / descriptor["digest"][7:]).read_bytes()
        )
        return content

    index = json.loads((layout / "index.json").read_text())
    manifest = read(index["manifests"][0])
    config = read(manifest["config"])  # type: ignore[arg-type]
    config["rootfs"]["diff_ids"][0] = f"sha256:{hashlib.sha256(layer).hexdigest()}"  # type: ignore[index]
    manifest["layers"][0].update(write(gzip.compress(layer, 1)))  # type: ignore[index]
    manifest["config"].update(write(json.dumps(config).encode()))  # type: ignore[attr-defined]
    index["manifests"][0].update(write(json.dumps(manifest).encode()))
    (layout / "index.json").write_text(json.dumps(index))
