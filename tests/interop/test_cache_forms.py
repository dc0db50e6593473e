"""Every form in which a cache can be exported, written by one builder and read by the other."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import TYPE_CHECKING

import pytest
from buildkit import cached, of_folder

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit import Builders

    from conftest import RunningRegistry

pytestmark = [pytest.mark.interop, pytest.mark.root]

DOCKERFILE = """FROM @BASE@ AS build
COPY a.txt /
RUN cat a.txt a.txt > /twice.txt
FROM @BASE@
COPY --from=build /twice.txt /
RUN true
COPY --link a.txt /linked/
RUN cat /twice.txt > /out.txt
"""
OPTIONS = [
    "mode=max",
    "mode=min",
    "mode=max,compression=zstd",
    "mode=max,compression=zstd,compression-level=7,force-compression=true",
    "mode=max,compression=uncompressed,force-compression=true",
    "mode=max,compression=gzip,compression-level=9",
    "mode=max,image-manifest=false",
    "mode=max,oci-mediatypes=false",
    "mode=max,oci-mediatypes=false,compression=zstd,force-compression=true",
]


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))
    (folder / "a.txt").write_text("hi\n")
    return folder


@pytest.mark.parametrize("place", ["registry", "local"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("first", ["buildkit", "inlay"])
def test_a_cache_of_any_form_is_read(
    builders: Builders,
    docker_registry: RunningRegistry,
    context: Path,
    tmp_path: Path,
    place: str,
    options: str,
    first: str,
) -> None:
    reference = f"{docker_registry.host}/forms/{first}:{OPTIONS.index(options)}"
    names = {
        "registry": (f"type=registry,ref={reference}", f"type=registry,ref={reference}"),
        "local": (f"type=local,dest={tmp_path}/cache,tag=t", f"type=local,src={tmp_path}/cache,tag=t"),
    }
    to, source = names[place]
    exporting, importing = builders.in_turn(first)
    exporting(of_folder(context), "", "--cache-to", f"{to},{options}")
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN cat /out.txt /linked/a.txt\n")  # makes it unpack the layers
    output = importing(of_folder(context), "", "--cache-from", source)
    hits, steps = cached(output)
    # What BuildKit pulls for the last step may show under a step before it, which then does not say CACHED.
    hits += len(set(re.findall(r"^#(\d+) extracting ", output, re.M)))
    assert hits >= (steps - 1 if "max" in options else 4), output


@pytest.mark.parametrize("compression", ["zstd", "uncompressed", "gzip"])
@pytest.mark.parametrize("first", ["buildkit", "inlay"])
def test_an_inline_cache_of_an_image_of_any_compression_is_read(
    builders: Builders, docker_registry: RunningRegistry, context: Path, compression: str, first: str
) -> None:
    reference = f"{docker_registry.host}/forms/inline-{first}:{compression}"
    flag = "--output" if first == "buildkit" else "-o"
    out = f"type=image,name={reference},push=true,compression={compression},force-compression=true"
    exporting, importing = builders.in_turn(first)
    exporting(of_folder(context), "", "--cache-to", "type=inline", flag, out)
    output = importing(of_folder(context), "", "--cache-from", f"type=registry,ref={reference}")
    hits, steps = cached(output)
    assert hits == steps, output


def test_buildkit_reads_what_is_left_of_a_cache_that_was_too_large(
    builders: Builders, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    stages, steps = 60, 60
    lines = []
    for stage in range(stages):
        lines += [f"FROM scratch AS s{stage}", *(f"WORKDIR /s{stage}/{step}" for step in range(steps))]
    lines += ["FROM scratch", *(f"COPY --from=s{stage} / /" for stage in range(stages))]
    (tmp_path / "Dockerfile").write_text("\n".join(lines))
    reference = f"{docker_registry.host}/forms/large:1"
    said = builders.inlay(of_folder(tmp_path), "", "--cache-to", f"type=registry,ref={reference},mode=max")
    assert "steps are left out of the cache" in said
    request = urllib.request.Request(f"http://{docker_registry.host}/v2/forms/large/manifests/1")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    with urllib.request.urlopen(request) as answer:
        raw = answer.read()
    assert len(raw) > 1_000_000
    assert json.loads(raw)["config"]["size"] > 500_000
    output = builders.buildkit(of_folder(tmp_path), "", "--cache-from", f"type=registry,ref={reference}")
    hits, total = cached(output)
    assert hits >= total - stages, output[-2000:]  # a first step on scratch has no record with a result
