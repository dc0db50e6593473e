"""What BuildKit was recorded to build, built by inlay: every layer of every step holds the same tree."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import RunningRegistry

VECTORS = Path(__file__).parents[1] / "vectors/cache"
sys.path.insert(0, str(VECTORS.parents[2] / "scripts"))

from vectors import builds  # noqa: E402

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: devices and foreign owners"),
]


def _builds() -> Iterator[tuple[str, str]]:
    """Each case, with each runtime if it runs anything."""
    with tarfile.open(VECTORS / "builds.tar.xz") as archive:
        for member in archive:
            case, _, name = member.name.partition("/")
            if name == "Dockerfile":
                stream = archive.extractfile(member)
                assert stream is not None
                runs = b"RUN" in stream.read() or "onbuild" in case
                yield from ((case, runtime) for runtime in (("crun", "runc", "builtin") if runs else ("",)))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    with tarfile.open(VECTORS / "builds.tar.xz") as archive:
        archive.extractall(folder, filter="fully_trusted")
    return folder


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize(("case", "runtime"), list(_builds()))
def test_trees_are_the_recorded_ones(
    recordings: Path, bases: builds.Bases, tmp_path: Path, case: str, runtime: str
) -> None:
    if runtime in ("crun", "runc") and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    flags = ("--runtime", runtime) if runtime else ()
    assert builds.check(recordings / case, bases, tmp_path / "work", *flags) == []


def test_a_difference_is_told_by_its_place() -> None:
    def layer(**facts: object) -> builds.Tree:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            member = tarfile.TarInfo("etc/x")
            member.mtime, member.mode = 100, 0o644
            for name, value in facts.items():
                setattr(member, name, value)
            archive.addfile(member)
        return builds.describe_layer(data.getvalue())

    times = builds.Times(newest_input_s=200, started_s=900, latest_s=float("inf"))
    assert list(builds.unlike([[layer()]], [[layer()]], times)) == []
    (mode,) = builds.unlike([[layer()]], [[layer(mode=0o600)]], times)
    assert mode.startswith("layer 0, etc/x: recorded")
    (time,) = builds.unlike([[layer()]], [[layer(mtime=101)]], times)
    assert time == "layer 0, etc/x: its time is recorded as 100, made 101"
    assert list(builds.unlike([[layer()]], [], times)) == ["only BuildKit has it"]
