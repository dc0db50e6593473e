"""A real BuildKit and inlay warm each other's builds. Skipped where buildkitd and buildctl are not on PATH."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from buildkit import cached

from running import run_inlay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from buildkit import Daemon

    from conftest import RunningRegistry

pytestmark = [pytest.mark.interop, pytest.mark.root]

_BUILDCTL_FLAGS = {"--cache-to": "--export-cache", "--cache-from": "--import-cache"}
DOCKERFILE = """FROM @BASE@ AS build
WORKDIR /src
COPY src ./
RUN --mount=type=cache,target=/cache cat a.txt > /out.txt && ln -s out.txt /link
FROM @BASE@
RUN --mount=type=bind,from=build,source=/out.txt,target=/in cp /in /copied
COPY --from=build --chown=nobody:nogroup /out.txt /li* /app/
COPY --link main.* /app/
ADD main.c /app/sub/
USER nobody
WORKDIR /home/of/nobody
CMD ["cat", "/app/out.txt"]
"""


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    (folder / "src").mkdir(parents=True)
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))
    (folder / "src/a.txt").write_text("hi\n")
    (folder / "main.c").write_text("main\n")
    (folder / "main.h").write_text("head\n")
    return folder


@pytest.mark.parametrize("kind", ["inline", "min", "max", "local"])
@pytest.mark.parametrize("first", ["buildkit", "inlay"])
def test_all_steps_are_cached(
    daemon: Daemon, docker_registry: RunningRegistry, context: Path, tmp_path: Path, kind: str, first: str
) -> None:
    repository = f"{docker_registry.host}/interop/{kind}-{first}"
    folder = tmp_path / "cache"
    export = {"inline": "type=inline", "local": f"type=local,dest={folder},mode=max"}.get(
        kind, f"type=registry,ref={repository}:cache,mode={kind}"
    )
    source = {"inline": f"type=registry,ref={repository}:one", "local": f"type=local,src={folder}"}.get(
        kind, f"type=registry,ref={repository}:cache"
    )

    def buildkit(tag: str, *cache: str) -> str:
        assert daemon.ctl("prune", "--all").returncode == 0
        local = ("--local", f"context={context}", "--local", f"dockerfile={context}")
        out = ("--output", f"type=image,name={repository}:{tag},push=true")
        flags = (
            part.replace("--cache-to", "--export-cache").replace("--cache-from", "--import-cache")
            for part in cache
        )
        done = daemon.ctl("build", "--progress", "plain", "--frontend", "dockerfile.v0", *local, *out, *flags)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def inlay(tag: str, *cache: str) -> str:
        command = [
            sys.executable,
            "-m",
            "inlay",
            "build",
            "--root",
            str(tmp_path / tag),
            "--progress",
            "plain",
        ]
        done = subprocess.run(
            [*command, "-t", f"{repository}:{tag}", "--push", *cache, str(context)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    builders: list[Callable[..., str]] = [buildkit, inlay] if first == "buildkit" else [inlay, buildkit]
    builders[0]("one", "--cache-to", export)
    hits, steps = cached(builders[1]("two", "--cache-from", source))
    assert steps >= 8
    assert hits == steps


def test_buildkit_reads_what_lies_beside_an_image(
    daemon: Daemon, docker_registry: RunningRegistry, context: Path, tmp_path: Path
) -> None:
    repository = f"{docker_registry.host}/interop/beside"
    done = run_inlay(
        *("build", "--root", str(tmp_path / "s"), "-t", f"{repository}:one", "--push"),
        *("--cache-to", "type=inline,mode=max", str(context)),
    )
    assert done.code == 0, done.err
    accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"

    def manifest(ref: str) -> tuple[dict[str, Any], str]:
        url = f"http://{docker_registry.host}/v2/interop/beside/manifests/{ref}"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as answer:
            return json.loads(answer.read()), answer.headers["Docker-Content-Digest"]

    image = manifest("one")[1]
    cache = manifest(image.replace(":", "-"))[0]["manifests"][0]["digest"]
    for ref, changed in ((f"{repository}:one", False), (f"{repository}@{cache}", True)):
        (context / "main.c").write_text("changed\n" if changed else "main\n")
        assert daemon.ctl("prune", "--all").returncode == 0
        local = ("--local", f"context={context}", "--local", f"dockerfile={context}")
        out = ("--output", f"type=image,name={repository}:two,push=true")
        source = ("--import-cache", f"type=registry,ref={ref}")
        built = daemon.ctl(
            "build", "--progress", "plain", "--frontend", "dockerfile.v0", *local, *out, *source
        )
        assert built.returncode == 0, built.stderr
        hits, steps = cached(built.stderr)
        assert hits == steps or changed, built.stderr
        # Another main.c needs the layers of the first steps, but none of the other stage is done again.
        other = set(re.findall(r"^#(\d+) \[build [234]/4\]", built.stderr, re.M))
        assert len(other) == 3
        assert all(re.search(rf"^#{number} CACHED$", built.stderr, re.M) for number in other), built.stderr


PLATFORMS = "linux/amd64,linux/arm64,linux/arm/v7"
FOR_EACH_PLATFORM = """FROM --platform=$BUILDPLATFORM @BASE@ AS build
ARG TARGETARCH
COPY src/a.txt /a-$TARGETARCH
FROM scratch
ARG TARGETARCH TARGETVARIANT
COPY --from=build /a-$TARGETARCH /a
WORKDIR /app$TARGETVARIANT
COPY --link main.c ./
"""


@pytest.mark.parametrize("first", ["buildkit", "inlay"])
def test_all_steps_of_all_platforms_are_cached(
    daemon: Daemon, docker_registry: RunningRegistry, context: Path, base: str, tmp_path: Path, first: str
) -> None:
    repository = f"{docker_registry.host}/interop/platforms-{first}"
    (context / "Dockerfile").write_text(FOR_EACH_PLATFORM.replace("@BASE@", base))

    def buildkit(tag: str, *cache: str) -> str:
        assert daemon.ctl("prune", "--all").returncode == 0
        local = ("--local", f"context={context}", "--local", f"dockerfile={context}")
        out = ("--output", f"type=image,name={repository}:{tag},push=true", "--opt", f"platform={PLATFORMS}")
        out += ("--opt", "attest:provenance=mode=min")  # the index then lists attestations, too
        flags = (_BUILDCTL_FLAGS.get(part, part) for part in cache)
        done = daemon.ctl("build", "--progress", "plain", "--frontend", "dockerfile.v0", *local, *out, *flags)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def inlay(tag: str, *cache: str) -> str:
        done = run_inlay(
            *("build", "--root", str(tmp_path / tag), "--progress", "plain", "--platform", PLATFORMS),
            *("-t", f"{repository}:{tag}", "--push", *cache, str(context)),
        )
        assert done.code == 0, done.err
        return done.err

    builders: list[Callable[..., str]] = [buildkit, inlay] if first == "buildkit" else [inlay, buildkit]
    builders[0]("one", "--cache-to", "type=inline")
    text = builders[1](
        "two", "--cache-from", f"type=registry,ref={repository}:one", "--cache-to", "type=inline"
    )
    hits, steps = cached(text)
    assert steps >= 12
    assert hits == steps, text
