"""`--cache-to` with all its options, and `--cache-from` for all that comes of it."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from fake_registry import answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fake_registry import FakeRegistry
    from running import Outcome

    Inlay = Callable[..., Outcome]

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DOCKERFILE = """FROM @BASE@ AS build
COPY a.txt /
RUN cat a.txt a.txt > /twice.txt
FROM @BASE@
COPY --from=build /twice.txt /
RUN true
RUN sleep 0.01
RUN cat /twice.txt > /out.txt
"""
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))
    (folder / "a.txt").write_text("hi\n")
    return folder


def build(inlay: Inlay, context: Path, root: str, *more: str) -> Outcome:
    done = inlay("build", "--root", str(context.parent / root), "--progress", "plain", *more, str(context))
    assert done.code == 0, done.err
    return done


def manifest_of(fake: FakeRegistry, name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(fake.manifests[name][1])
    return manifest


def steps_cached(done: Outcome) -> int:
    return int(done.err.splitlines()[-1].partition(" step")[0].rpartition(" ")[2])


def digest(done: Outcome) -> str:
    return done.err.splitlines()[-1].partition(" · ")[0]


@pytest.mark.parametrize(
    ("options", "magic", "media_type"),
    [
        ("", GZIP, "application/vnd.oci.image.layer.v1.tar+gzip"),
        (",compression=gzip,compression-level=9", GZIP, "application/vnd.oci.image.layer.v1.tar+gzip"),
        (",compression=zstd", ZSTD, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (",compression=zstd,compression-level=19", ZSTD, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (",compression=uncompressed", b"", "application/vnd.oci.image.layer.v1.tar"),
        (",image-manifest=false", GZIP, "application/vnd.oci.image.layer.v1.tar+gzip"),
        (",oci-mediatypes=false", GZIP, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ],
)
def test_a_cache_of_any_form_is_written_and_read(
    inlay: Inlay, fake: FakeRegistry, context: Path, options: str, magic: bytes, media_type: str
) -> None:
    build(
        inlay, context, "1", "--cache-to", f"type=registry,ref={fake.host}/app:c,mode=max{options}",
        "-o", "type=cacheonly",
    )  # fmt: skip
    manifest = manifest_of(fake, "app:c")
    layers = manifest.get("layers") or manifest["manifests"][:-1]
    new = [layer for layer in layers if layer["size"] < 100_000]  # the base keeps its form
    assert len(new) == 6
    for layer in new:
        assert layer["mediaType"] == media_type
        assert fake.blobs[layer["digest"]].startswith(magic)
    again = build(inlay, context, "2", "--cache-from", f"{fake.host}/app:c")
    assert steps_cached(again) == 6


def test_stages_are_cached_whose_files_go_onto_a_folder_of_this_machine(
    inlay: Inlay, fake: FakeRegistry, context: Path, base: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {base} AS build\nRUN echo 1 > /out.txt\nFROM folder\nCOPY --from=build /out.txt /\n"
    )
    ref, folder = f"{fake.host}/app:c", ("--build-context", f"folder={tmp_path}/folder")
    cache = f"type=registry,ref={ref},mode=max"
    build(inlay, context, "1", *folder, "--cache-to", cache, "-o", "type=cacheonly")
    again = build(inlay, context, "2", *folder, "--cache-from", ref)
    assert steps_cached(again) == 1, "COPY has no key that is the same elsewhere"


def test_force_compression_converts_what_was_there_and_the_image_too(
    inlay: Inlay, fake: FakeRegistry, context: Path
) -> None:
    first = build(inlay, context, "1", "-t", f"{fake.host}/app:gzip", "--push")
    cache = f"type=registry,ref={fake.host}/app:c,mode=max,compression=zstd,force-compression="
    image = f"type=image,name={fake.host}/app:zstd,push=true,compression=zstd,force-compression=true"
    build(inlay, context, "1", "--cache-to", cache, "--cache-to", "type=inline", "-o", image)
    for name in ("app:c", "app:zstd"):
        layers = manifest_of(fake, name)["layers"]
        assert {layer["mediaType"] for layer in layers} == {"application/vnd.oci.image.layer.v1.tar+zstd"}
        assert all(fake.blobs[layer["digest"]].startswith(ZSTD) for layer in layers)
    configs = [
        json.loads(fake.blobs[manifest_of(fake, f"app:{tag}")["config"]["digest"]])
        for tag in ("gzip", "zstd")
    ]
    assert configs[0]["rootfs"] == configs[1]["rootfs"]
    assert configs[0]["history"] == configs[1]["history"]
    for tag in ("c", "zstd"):
        again = build(
            inlay, context, f"from {tag}", "--cache-from", f"{fake.host}/app:{tag}",
            "-o", f"type=local,dest={context.parent}/out {tag}",
        )  # fmt: skip
        assert steps_cached(again) >= 4
        assert (context.parent / f"out {tag}/out.txt").read_text() == "hi\nhi\n"
    assert digest(build(inlay, context, "1", "-t", f"{fake.host}/app:gzip", "--push")) == digest(first)


def test_without_force_what_is_packed_already_stays_as_it_is(
    inlay: Inlay, fake: FakeRegistry, context: Path
) -> None:
    build(inlay, context, "1", "-t", f"{fake.host}/app:gzip", "--push")
    cache = f"type=registry,ref={fake.host}/app:c,mode=min,compression=zstd"
    build(inlay, context, "1", "--cache-to", cache, "-o", "type=cacheonly")
    assert manifest_of(fake, "app:c")["layers"]
    assert all(layer["mediaType"].endswith("gzip") for layer in manifest_of(fake, "app:c")["layers"])


def test_several_caches_at_once(inlay: Inlay, fake: FakeRegistry, context: Path, tmp_path: Path) -> None:
    build(
        inlay, context, "1", "-t", f"{fake.host}/app:1", "--push",
        "--cache-to", "type=inline",
        "--cache-to", f"type=registry,ref={fake.host}/app:max,mode=max",
        "--cache-to", f"type=registry,ref={fake.host}/app:min,image-manifest=false",
        "--cache-to", f"type=local,dest={tmp_path}/local,mode=max,compression=zstd,force-compression=true",
    )  # fmt: skip
    places = [f"{fake.host}/app:{tag}" for tag in ("1", "max", "min")] + [f"type=local,src={tmp_path}/local"]
    for n, place in enumerate(places):
        again = build(inlay, context, f"from {n}", "--cache-from", place)
        assert steps_cached(again) >= 4, place


def test_build_arg_buildkit_inline_cache_is_an_inline_cache(
    inlay: Inlay, fake: FakeRegistry, context: Path
) -> None:
    arg = ("--build-arg", "BUILDKIT_INLINE_CACHE=1")
    build(inlay, context, "1", "-t", f"{fake.host}/app:1", "--push", *arg)
    assert steps_cached(build(inlay, context, "2", "--cache-from", f"{fake.host}/app:1", *arg)) == 6


def test_a_local_cache_has_tags_and_reset_deletes_what_none_of_them_needs(
    inlay: Inlay, context: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"

    def blobs() -> set[str]:
        return {path.name for path in (folder / "blobs/sha256").iterdir()}

    to = f"type=local,dest={folder},mode=max"
    build(inlay, context, "1", "--cache-to", f"{to},tag=one", "-o", "type=cacheonly")
    first = blobs()
    (context / "a.txt").write_text("changed\n")
    build(inlay, context, "1", "--cache-to", f"{to},tag=two", "-o", "type=cacheonly")
    assert blobs() > first
    for tag, cached in (("one", 0), ("two", 6)):
        source = f"type=local,src={folder},tag={tag}"
        assert steps_cached(build(inlay, context, f"from {tag}", "--cache-from", source)) >= cached
    build(inlay, context, "1", "--cache-to", f"{to},tag=two,reset=true", "-o", "type=cacheonly")
    assert blobs() > first  # tag one still needs them
    (context / "a.txt").write_text("changed again\n")
    for tag in ("one", "two"):
        build(inlay, context, "1", "--cache-to", f"{to},tag={tag},reset=true", "-o", "type=cacheonly")
    assert not first <= blobs()
    assert (
        steps_cached(build(inlay, context, "last", "--cache-from", f"type=local,src={folder},tag=one")) == 6
    )


def test_a_local_cache_whose_index_is_half_written_is_told_and_not_used(
    inlay: Inlay, context: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    build(inlay, context, "one", "--cache-to", f"type=local,dest={folder}")
    (folder / "index.json").write_text('{"schemaVersion":2,"manif')
    done = build(inlay, context, "two", "--cache-from", f"type=local,src={folder}")
    assert f"WARN: cache {folder} is not used: {folder}/index.json: the manifest is not JSON" in done.err
    to = f"type=local,dest={folder}"
    done = inlay("build", "--root", str(tmp_path / "two"), "-q", "--cache-to", to, str(context))
    assert done.code == 1
    assert done.err.endswith("it cannot be added to: delete the file, or write elsewhere\n")
    build(inlay, context, "two", "--cache-to", f"{to},ignore-error=true")


def test_a_local_cache_is_read_by_digest_and_out_of_an_archive(
    inlay: Inlay, context: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    build(inlay, context, "1", "--cache-to", f"type=local,dest={folder},mode=max", "-o", "type=cacheonly")
    listed = json.loads((folder / "index.json").read_text())["manifests"][0]
    assert listed["annotations"]["org.opencontainers.image.ref.name"] == "latest"
    with tarfile.open(tmp_path / "cache.tar", "w") as tar:
        tar.add(folder, ".")
    for n, source in enumerate(
        (
            f"type=local,src={folder},digest={listed['digest']}",
            f"type=oci-layout,src={folder},tag=latest",
            f"type=oci-layout,src={tmp_path}/cache.tar",
        )
    ):
        assert steps_cached(build(inlay, context, f"from {n}", "--cache-from", source)) == 6


@pytest.mark.parametrize("ignore", [True, False])
def test_a_cache_that_cannot_be_written_fails_the_build_unless_told_to_ignore_it(
    inlay: Inlay, fake: FakeRegistry, context: Path, ignore: bool
) -> None:
    fake.fault("PUT", "/manifests/", answer(403), times=9)
    to = f"type=registry,ref={fake.host}/app:c" + (",ignore-error=true" if ignore else "")
    done = inlay("build", "--root", str(context.parent / "1"), "--cache-to", to, "-t", "app", str(context))
    assert done.code == (0 if ignore else 1)
    assert f"{fake.host}/app:c" in done.err


@pytest.mark.parametrize(
    "to",
    [
        "type=registry,ref=x/y:z,compression=lzma",
        "type=registry,ref=x/y:z,compression=gzip,compression-level=10",
        "type=registry,ref=x/y:z,compression-level=high",
        "type=registry,ref=x/y:z,oci-mediatypes=false,image-manifest=true",
        "type=registry,ref=x/y:z,ignore-error=perhaps",
        "type=registry,ref=x/Y:z",
        "type=registry,ref=x/y:z,mode=medium",
        "type=local,mode=max",
        "type=gha",
    ],
)
def test_what_cannot_be_is_said_before_anything_is_built(inlay: Inlay, context: Path, to: str) -> None:
    done = inlay("build", "--root", str(context.parent / "1"), "--cache-to", to, str(context))
    assert done.code == 2
    assert done.err.startswith("inlay: --cache-to")
    assert len(done.err.splitlines()) == 1


def test_two_caches_cannot_go_to_one_place(inlay: Inlay, context: Path) -> None:
    to = ("--cache-to", "type=registry,ref=x/y:z", "--cache-to", "type=registry,ref=x/y:z,mode=max")
    done = inlay("build", "--root", str(context.parent / "1"), *to, str(context))
    assert done.code == 2
    assert "two caches cannot go to the same place" in done.err
