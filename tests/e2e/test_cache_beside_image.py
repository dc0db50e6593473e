"""`--cache-to type=inline,mode=max`: an image keeps the layers of its other stages beside it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry

pytestmark = [pytest.mark.e2e, pytest.mark.root]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CACHE = "application/vnd.buildkit.cacheconfig.v0"
DOCKERFILE = """FROM @BASE@ AS build
RUN head -c 300000 /dev/urandom > /toolchain
WORKDIR /src
COPY early.txt ./
RUN cat /toolchain early.txt | md5sum > /made
COPY late.txt ./
RUN cat /made late.txt > /out.txt
FROM @BASE@
COPY --from=build /out.txt /
"""
BUILD = ("build", "--progress", "plain")


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))
    (folder / "early.txt").write_text("early\n")
    (folder / "late.txt").write_text("late\n")
    return folder


def get(host: str, path: str) -> tuple[bytes, str]:
    """A manifest as it is, and its digest."""
    request = urllib.request.Request(f"http://{host}/v2/{path}", headers={"Accept": f"{MANIFEST}, {INDEX}"})
    with urllib.request.urlopen(request) as answer:
        return answer.read(), answer.headers["Docker-Content-Digest"]


def beside(host: str, repository: str, digest: str) -> list[dict[str, Any]]:
    """What the tag of referrers lists."""
    try:
        raw, _ = get(host, f"{repository}/manifests/{digest.replace(':', '-')}")
    except urllib.error.HTTPError as error:
        error.close()
        return []
    listed: list[dict[str, Any]] = json.loads(raw)["manifests"]
    return listed


def test_an_empty_machine_takes_unchanged_steps_of_other_stages_from_beside_the_image(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/beside"
    push = (*BUILD, "--push", "--cache-to", "type=inline,mode=max", str(context))
    first = inlay(*push, "--root", str(tmp_path / "a"), "-t", f"{ref}:1")
    assert first.code == 0, first.err
    _, image = get(docker_registry.host, "beside/manifests/1")
    (cache,) = beside(docker_registry.host, "beside", image)
    assert (cache["artifactType"], cache["mediaType"]) == (CACHE, MANIFEST)
    manifest = json.loads(get(docker_registry.host, f"beside/manifests/{cache['digest']}")[0])
    assert manifest["subject"]["digest"] == image
    assert manifest["config"]["mediaType"] == CACHE

    (context / "late.txt").write_text("changed\n")
    mark = docker_registry.log_size()
    again = inlay(*push, "--root", str(tmp_path / "b"), "-t", f"{ref}:2", "--cache-from", f"{ref}:1")
    assert again.code == 0, again.err
    assert again.cached == 4, again.err  # all before COPY late.txt
    assert not any(line.startswith("RUN cat /toolchain") for line in again.err.splitlines())
    pulled = {line for line in docker_registry.requests(mark) if line.startswith("GET") and "/blobs/" in line}
    assert any(layer["digest"] in line for layer in manifest["layers"] for line in pulled)

    # What the second build leaves serves a third in the same way: the random file is the first one's.
    (context / "late.txt").write_text("changed again\n")
    third = inlay(*push, "--root", str(tmp_path / "c"), "-t", f"{ref}:3", "--cache-from", f"{ref}:2")
    assert third.cached == 4, third.err


def test_a_full_match_changes_nothing_and_asks_for_little(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/beside-match"
    push = (*BUILD, "--push", str(context), "--cache-to")
    first = inlay(*push, "type=inline,mode=max", "--root", str(tmp_path / "a"), "-t", f"{ref}:1")
    assert first.code == 0, first.err
    _, image = get(docker_registry.host, "beside-match/manifests/1")
    listed = beside(docker_registry.host, "beside-match", image)

    mark = docker_registry.log_size()
    from_one = ("--cache-from", f"{ref}:1")
    plain = inlay(*push, "type=inline", "--root", str(tmp_path / "b"), "-t", f"{ref}:2", *from_one)
    assert plain.cached == 7, plain.err
    assert get(docker_registry.host, "beside-match/manifests/2")[1] == image
    assert not [line for line in docker_registry.requests(mark) if "referrers" in line or "sha256-" in line]

    mark = docker_registry.log_size()
    full = inlay(*push, "type=inline,mode=max", "--root", str(tmp_path / "c"), "-t", f"{ref}:3", *from_one)
    assert full.cached == 7, full.err
    assert get(docker_registry.host, "beside-match/manifests/3")[1] == image
    assert beside(docker_registry.host, "beside-match", image) == listed
    layers = json.loads(get(docker_registry.host, f"beside-match/manifests/{listed[0]['digest']}")[0])[
        "layers"
    ]
    moved = [
        line for line in docker_registry.requests(mark) if any(layer["digest"] in line for layer in layers)
    ]
    assert not [line for line in moved if line.startswith(("GET", "PUT", "POST", "PATCH"))]


def test_another_repository_gets_the_whole_cache(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    host = docker_registry.host
    push = (*BUILD, "--push", "--cache-to", "type=inline,mode=max", str(context))
    assert inlay(*push, "--root", str(tmp_path / "a"), "-t", f"{host}/beside-one:1").code == 0
    copied = inlay(
        *push,
        "--root",
        str(tmp_path / "b"),
        "-t",
        f"{host}/beside-two:1",
        "--cache-from",
        f"{host}/beside-one:1",
    )
    assert copied.cached == 7, copied.err
    _, image = get(host, "beside-two/manifests/1")
    assert beside(host, "beside-two", image) == beside(host, "beside-one", image) != []
    (context / "late.txt").write_text("changed\n")
    source = ("--cache-from", f"{host}/beside-two:1")
    done = inlay(*BUILD, "--root", str(tmp_path / "c"), "-t", "x", *source, str(context))
    assert done.cached == 4, done.err


@pytest.mark.parametrize("tar", ["true", "false"])
def test_layouts_and_archives_keep_it_too(
    inlay: Callable[..., Any], context: Path, tmp_path: Path, tar: str
) -> None:
    dest = tmp_path / "out"
    out = f"type=oci,dest={dest},tar={tar},name=app:1"
    first = inlay(
        *BUILD, "--root", str(tmp_path / "a"), "-o", out, "--cache-to", "type=inline,mode=max", str(context)
    )
    assert first.code == 0, first.err
    (context / "late.txt").write_text("changed\n")
    second = inlay(
        *BUILD,
        "--root",
        str(tmp_path / "b"),
        "-t",
        "x",
        "--cache-from",
        f"type=oci-layout,src={dest}",
        str(context),
    )
    assert second.cached == 4, second.err


def test_the_local_store_keeps_it_for_other_stores(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    store = tmp_path / "a"
    build = (*BUILD, "--cache-to", "type=inline,mode=max", str(context))
    for _ in range(2):
        assert inlay(*build, "--root", str(store), "-t", "app").code == 0
    index = json.loads((store / "index.json").read_text())
    assert len(index["manifests"]) == 2  # the image, and what refers to it
    (context / "late.txt").write_text("changed\n")
    source = f"type=oci-layout,src={store},tag=docker.io/library/app:latest"
    second = inlay(*build, "--root", str(tmp_path / "b"), "-t", "x", "--cache-from", source)
    assert second.cached == 4, second.err


def test_a_cache_beside_the_image_that_is_broken_is_a_warning(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    out = f"type=oci,dest={layout},tar=false,name=app:1"
    first = inlay(
        *BUILD, "--root", str(tmp_path / "a"), "-o", out, "--cache-to", "type=inline,mode=max", str(context)
    )
    assert first.code == 0, first.err
    referrers = json.loads((layout / "index.json").read_text())["manifests"][1]
    listed = json.loads((layout / "blobs" / referrers["digest"].replace(":", "/")).read_text())["manifests"]
    (layout / "blobs" / listed[0]["digest"].replace(":", "/")).write_text("{}")
    (context / "late.txt").write_text("changed\n")
    second = inlay(
        *BUILD,
        "--root",
        str(tmp_path / "b"),
        "-t",
        "x",
        "--cache-from",
        f"type=oci-layout,src={layout}",
        str(context),
    )
    assert second.code == 0, second.err
    assert second.err.count("WARN: the cache beside") == 1, second.err
    assert second.cached < 4


def test_one_stage_alone_has_nothing_beside_it(
    inlay: Callable[..., Any], context: Path, base: str, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(f"FROM {base}\nRUN echo one > /one\n")
    ref = f"{docker_registry.host}/beside-nothing:1"
    done = inlay(
        *BUILD,
        "--root",
        str(tmp_path / "a"),
        "-t",
        ref,
        "--push",
        "--cache-to",
        "type=inline,mode=max",
        str(context),
    )
    assert done.code == 0, done.err
    _, image = get(docker_registry.host, "beside-nothing/manifests/1")
    assert beside(docker_registry.host, "beside-nothing", image) == []
