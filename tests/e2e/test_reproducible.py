"""Equal inputs give equal bytes: images and caches, from a cache and from scratch, here and on another machine."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fake_registry import FakeRegistry
    from running import Outcome

    Inlay = Callable[..., Outcome]

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DOCKERFILE = """FROM @BASE@ AS build
COPY a.txt b.txt /
RUN true
RUN cat a.txt a.txt > /twice.txt && mkdir /made && touch -d @1 /made/old
FROM @BASE@
COPY --from=build /twice.txt /
RUN true
RUN sleep 0.01
COPY --link --from=build /made /made
WORKDIR /work/dir
RUN true && true
RUN cat /twice.txt > /out.txt
"""
STEPS = 9


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("hi\n")
    return folder


def build(inlay: Inlay, fake: FakeRegistry, context: Path, name: str, *more: str) -> Outcome:
    """Build with an empty store; push the image and all kinds of caches under tags that begin with `name`."""
    done = inlay(
        *("build", "--root", str(context.parent / name), "--progress", "plain"),
        *("-t", f"{fake.host}/app:{name}", "--push", "--cache-to", "type=inline"),
        *("--cache-to", f"type=registry,ref={fake.host}/app:{name}-max,mode=max"),
        *("--cache-to", f"type=registry,ref={fake.host}/app:{name}-min,mode=min,image-manifest=false"),
        *(*more, str(context)),
    )
    assert done.code == 0, done.err
    return done


def made(fake: FakeRegistry, name: str) -> list[bytes]:
    return [fake.manifests[f"app:{name}{kind}"][1] for kind in ("", "-max", "-min")]


def config_of(fake: FakeRegistry, name: str) -> dict[str, Any]:
    manifest = json.loads(fake.manifests[f"app:{name}"][1])
    config: dict[str, Any] = json.loads(fake.blobs[manifest["config"]["digest"]])
    return config


@pytest.mark.parametrize("source", ["one", "one-max", "one-min"])
def test_from_a_cache_on_another_machine_all_bytes_are_the_same(
    inlay: Inlay, fake: FakeRegistry, context: Path, source: str
) -> None:
    build(inlay, fake, context, "one")
    layers = [layer["digest"] for layer in json.loads(fake.manifests["app:one"][1])["layers"]]
    assert len(set(layers)) < len(layers)  # several steps change nothing
    again = build(inlay, fake, context, "two", "--cache-from", f"{fake.host}/app:{source}")
    assert " 0 run · " in again.err.splitlines()[-1]
    image, largest, smallest = made(fake, "two")
    assert image == made(fake, "one")[0]
    if source == "one-max":
        assert [largest, smallest] == made(fake, "one")[1:]
    build(inlay, fake, context, "two")  # from what the store has kept of the cache
    assert made(fake, "two")[0] == image


def test_from_the_store_all_bytes_are_the_same(inlay: Inlay, fake: FakeRegistry, context: Path) -> None:
    build(inlay, fake, context, "one")
    first = made(fake, "one")
    build(inlay, fake, context, "one")
    assert made(fake, "one") == first
    build(
        inlay,
        fake,
        context,
        "one",
        *(f"--cache-from={fake.host}/app:one{kind}" for kind in ("", "-max", "-min")),
    )
    assert made(fake, "one") == first


@pytest.mark.parametrize("is_in_dockerfile", [False, True], ids=["build-arg", "ARG in the Dockerfile"])
def test_with_source_date_epoch_two_builds_from_scratch_are_the_same(
    inlay: Inlay, fake: FakeRegistry, context: Path, is_in_dockerfile: bool
) -> None:
    epoch = () if is_in_dockerfile else ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
    if is_in_dockerfile:
        dockerfile = context / "Dockerfile"
        dockerfile.write_text("ARG SOURCE_DATE_EPOCH=1700000000\n" + dockerfile.read_text())
    for name in ("one", "two"):
        build(inlay, fake, context, name, *epoch)
    assert made(fake, "one") == made(fake, "two")
    records = json.loads(base64.b64decode(config_of(fake, "one")["moby.buildkit.cache.v0"]))
    times = {result["createdAt"] for record in records for result in record.get("layers", ())}
    assert times == {"2023-11-14T22:13:20Z"}


def test_with_source_date_epoch_from_a_cache_too(inlay: Inlay, fake: FakeRegistry, context: Path) -> None:
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
    build(inlay, fake, context, "one", *epoch)
    again = build(inlay, fake, context, "two", *epoch, "--cache-from", f"{fake.host}/app:one-max")
    assert " 0 run · " in again.err.splitlines()[-1]
    assert made(fake, "one") == made(fake, "two")


def test_with_source_date_epoch_and_no_cache_what_the_store_had_before_does_not_matter(
    inlay: Inlay, fake: FakeRegistry, context: Path
) -> None:
    """Its older results say that they are newer."""
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
    build(inlay, fake, context, "one", *epoch)
    first = made(fake, "one")
    build(inlay, fake, context, "two")
    build(inlay, fake, context, "two", *epoch, "--no-cache")
    assert made(fake, "two") == first
    again = build(inlay, fake, context, "two", *epoch)
    assert " 0 run · " in again.err.splitlines()[-1]
    assert made(fake, "two") == first


def test_without_it_they_differ_in_times_alone(inlay: Inlay, fake: FakeRegistry, context: Path) -> None:
    for name in ("one", "two"):
        build(inlay, fake, context, name)
    assert made(fake, "one")[0] != made(fake, "two")[0]
    one, two = (config_of(fake, name) for name in ("one", "two"))
    assert [entry.get("created_by") for entry in one["history"]] == [
        entry.get("created_by") for entry in two["history"]
    ]
    assert one["config"] == two["config"]
