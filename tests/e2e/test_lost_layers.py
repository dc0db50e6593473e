"""A layer of a cached result that is gone, cut short or of other bytes: its step runs again, and that is all."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from fake_registry import answer, cut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fake_registry import FakeRegistry
    from running import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DOCKERFILE = """FROM @BASE@ AS build
COPY a.txt /
RUN cat a.txt a.txt > /twice.txt
FROM @BASE@
COPY --from=build /twice.txt /
RUN cat /twice.txt > /out.txt
"""


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))
    (folder / "a.txt").write_text("hi\n")
    return folder


@pytest.fixture
def cached(inlay: Callable[..., Outcome], fake: FakeRegistry, context: Path, tmp_path: Path) -> list[str]:
    """Push a cache of all steps to `app:cache`; the digests of its layers without the base, lowest first."""
    done = inlay(
        "build", "--root", str(tmp_path / "one"), "--cache-to", to(fake), "-o", "type=cacheonly", str(context)
    )
    assert done.code == 0, done.err
    _, manifest = fake.manifests["app:cache"]
    config = json.loads(fake.blobs[json.loads(manifest)["config"]["digest"]])
    layers = config["layers"]
    (base,) = (n for n, layer in enumerate(layers) if layer.get("parent") == -1)
    return [layer["blob"] for n, layer in enumerate(layers) if n != base]


def to(fake: FakeRegistry) -> str:
    return f"type=registry,ref={fake.host}/app:cache,mode=max"


def rebuild(
    inlay: Callable[..., Outcome], fake: FakeRegistry, context: Path, root: Path, *more: str
) -> Outcome:
    """Build on another machine, so to say, with a last step that makes it read what the others made."""
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN cat /out.txt /twice.txt > /again.txt\n")
    done: Outcome = inlay(
        "build",
        "--root",
        str(root),
        "--progress",
        "plain",
        "--cache-from",
        f"{fake.host}/app:cache",
        "-o",
        f"type=local,dest={root}-out",
        *more,
        str(context),
    )
    assert done.code == 0, done.err
    assert (root.parent / f"{root.name}-out/again.txt").read_text() == "hi\nhi\n" * 2
    return done


def steps_cached(done: Outcome) -> int:
    """What the last line says; a step may have said CACHED before its layer was found to be gone."""
    return int(done.err.splitlines()[-1].partition(" step")[0].rpartition(" ")[2])


def test_with_all_layers_there_only_the_new_step_runs(
    inlay: Callable[..., Outcome], fake: FakeRegistry, context: Path, cached: list[str], tmp_path: Path
) -> None:
    done = rebuild(inlay, fake, context, tmp_path / "two")
    assert steps_cached(done) == 4
    assert "arning" not in done.err


def gone(fake: FakeRegistry, digest: str) -> None:
    del fake.blobs[digest]


def gone_when_read(fake: FakeRegistry, digest: str) -> None:
    fake.fault("GET", digest, answer(404), times=9)


def refused_when_read(fake: FakeRegistry, digest: str) -> None:
    fake.fault("GET", digest, answer(403), times=9)


def cut_short(fake: FakeRegistry, digest: str) -> None:
    fake.fault("GET", digest, cut(after=10), times=1)
    fake.fault("GET", digest, answer(404), times=9)


def of_other_bytes(fake: FakeRegistry, digest: str) -> None:
    fake.blobs[digest] = bytes(len(fake.blobs[digest]))


@pytest.mark.parametrize("fault", [gone, gone_when_read, refused_when_read, cut_short, of_other_bytes])
def test_the_step_runs_again(
    inlay: Callable[..., Outcome],
    fake: FakeRegistry,
    context: Path,
    cached: list[str],
    tmp_path: Path,
    fault: Callable[[FakeRegistry, str], None],
) -> None:
    for digest in cached:
        fault(fake, digest)
    done = rebuild(inlay, fake, context, tmp_path / "two")
    assert steps_cached(done) < 4
    warnings = [line for line in done.err.splitlines() if line.startswith("WARN")]
    said = "is no longer at" if fault is gone else "of a cached result cannot be had from"
    assert any(said in line for line in warnings)
    assert len(warnings) == len(set(warnings)) <= len(cached)
    again = rebuild(inlay, fake, context, tmp_path / "two")
    assert steps_cached(again) == 5, again.err


def test_a_layer_that_is_another_than_the_cache_says_is_not_taken(
    inlay: Callable[..., Outcome], fake: FakeRegistry, context: Path, cached: list[str], tmp_path: Path
) -> None:
    """The digest of the blob is right, and that of what it unpacks to is not."""
    media_type, raw = fake.manifests["app:cache"]
    manifest = json.loads(raw)
    for layer in manifest["layers"]:
        if layer["digest"] in cached:
            layer["annotations"]["containerd.io/uncompressed"] = "sha256:" + "0" * 64
    fake.tag("app", "cache", json.dumps(manifest).encode(), media_type)
    done = rebuild(inlay, fake, context, tmp_path / "two")
    assert "but its image says sha256:0000" in done.err


def test_an_archive_that_reaches_outside_is_not_taken(
    inlay: Callable[..., Outcome], fake: FakeRegistry, context: Path, cached: list[str], tmp_path: Path
) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../../outside"))
    hostile = archive.getvalue()
    digest = fake.put(hostile)
    media_type, raw = fake.manifests["app:cache"]
    manifest = json.loads(raw)
    config = json.loads(fake.blobs[manifest["config"]["digest"]])
    for layer in manifest["layers"]:
        if layer["digest"] in cached:
            layer |= {"digest": digest, "size": len(hostile), "annotations": {}}
    for layer in config["layers"]:
        if layer["blob"] in cached:
            layer["blob"] = digest
    changed = json.dumps(config).encode()
    manifest["config"] |= {"digest": fake.put(changed), "size": len(changed)}
    fake.tag("app", "cache", json.dumps(manifest).encode(), media_type)
    done = rebuild(inlay, fake, context, tmp_path / "two")
    assert "of a cached result cannot be had" in done.err
    assert not list(tmp_path.glob("**/outside"))


def test_a_layer_that_is_lost_while_it_is_pushed_is_made_again(
    inlay: Callable[..., Outcome], fake: FakeRegistry, context: Path, cached: list[str], tmp_path: Path
) -> None:
    fake.mounts = False
    for digest in cached:
        fake.fault("GET", digest, answer(404), times=9)
    done: Outcome = inlay(
        "build",
        "--root",
        str(tmp_path / "two"),
        "--cache-from",
        f"{fake.host}/app:cache",
        "-t",
        f"{fake.host}/other:1",
        "--push",
        str(context),
    )
    assert done.code == 0, done.err
    for layer in json.loads(fake.manifests["other:1"][1])["layers"]:
        assert "sha256:" + hashlib.sha256(fake.blobs[layer["digest"]]).hexdigest() == layer["digest"]


@pytest.mark.parametrize("forced", ["", ",compression=zstd,force-compression=true"])
def test_a_cache_is_exported_without_the_layers_of_an_imported_one_that_are_gone(
    inlay: Callable[..., Outcome],
    fake: FakeRegistry,
    context: Path,
    cached: list[str],
    tmp_path: Path,
    forced: str,
) -> None:
    """Those of another stage, which a build in which all is cached has no need of."""
    image = f"{fake.host}/app:image"
    assert inlay("build", "--root", str(tmp_path / "one"), "-t", image, "--push", str(context)).code == 0
    needed = {layer["digest"] for layer in json.loads(fake.manifests["app:image"][1])["layers"]}
    lost = set(cached) - needed
    for digest in lost:
        del fake.blobs[digest]
    done = inlay(
        *("build", "--root", str(tmp_path / "two"), "--progress", "plain", "-o", "type=cacheonly"),
        *("--cache-from", f"{fake.host}/app:cache"),
        *("--cache-to", f"type=local,dest={tmp_path}/copy,mode=max{forced}", str(context)),
    )
    assert (done.code, steps_cached(done)) == (0, 4), done.err
    assert "the cache is written without the results that need it\n" in done.err
    fake.blobs.clear()
    again = inlay(
        *("build", "--root", str(tmp_path / "three"), "--progress", "plain", "-o", "type=cacheonly"),
        *("--cache-from", f"type=local,src={tmp_path}/copy", str(context)),
    )
    assert (again.code, steps_cached(again)) == (0, 4), again.err


@pytest.mark.parametrize("junk", ["junk", "sha256:../../../etc/passwd", "\x1b[31m"])
def test_what_a_cache_says_of_its_layers_cannot_fail_the_build(
    inlay: Callable[..., Outcome],
    fake: FakeRegistry,
    context: Path,
    cached: list[str],
    tmp_path: Path,
    junk: str,
) -> None:
    media_type, raw = fake.manifests["app:cache"]
    manifest = json.loads(raw)
    for name in ("buildkit/createdat", "containerd.io/uncompressed"):
        for layer in manifest["layers"]:
            layer["annotations"][name] = junk
        fake.tag("app", "cache", json.dumps(manifest).encode(), media_type)
        done = rebuild(
            inlay,
            fake,
            context,
            tmp_path / f"two {name[0]}",
            "-t",
            f"{fake.host}/app:again",
            "-o",
            "type=registry",
        )
        assert steps_cached(done) >= (4 if name == "buildkit/createdat" else 0)
        image = json.loads(fake.manifests["app:again"][1])
        config = json.loads(fake.blobs[image["config"]["digest"]])
        assert junk not in json.dumps(config)
