"""A real BuildKit and inlay warm each other's builds: those that were recorded, done again with both."""

from __future__ import annotations

import contextlib
import tarfile
from typing import TYPE_CHECKING

import pytest
from buildkit import Build, cached

from recorded_builds import VECTORS, builds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from buildkit import Builders

    from conftest import RunningRegistry

pytestmark = [pytest.mark.interop, pytest.mark.root]

WITHOUT_STEPS = {"c36-metadata-only"}


def _recorded() -> list[str]:
    with tarfile.open(VECTORS / "builds.tar.xz") as archive:
        names = [name.partition("/") for name in archive.getnames()]
    return sorted(case for case, _, file in names if file == "Dockerfile" and case not in WITHOUT_STEPS)


@contextlib.contextmanager
def recorded(name: str, recordings: Path, bases: builds.Bases, tmp_path: Path) -> Iterator[Build]:
    work = tmp_path / "work"
    work.mkdir()
    case = builds.RecordedBuild(recordings / name, bases, work)
    with case.served():
        yield Build(case.buildctl_arguments(), case.inlay_arguments())


@pytest.mark.parametrize("name", _recorded())
@pytest.mark.parametrize("kind", ["inline", "min", "max", "local"])
@pytest.mark.parametrize("first", ["buildkit", "inlay"])
def test_all_steps_of_recorded_builds_are_cached(
    builders: Builders,
    docker_registry: RunningRegistry,
    recordings: Path,
    bases: builds.Bases,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    name: str,
    kind: str,
    first: str,
) -> None:
    """`--junitxml`, with `-o junit_family=xunit1`, writes the numbers: steps cached, of all steps."""
    folder = tmp_path / "cache"
    repository = f"{docker_registry.host}/interop/{name}/{kind}-{first}"
    export = {"inline": "type=inline", "local": f"type=local,dest={folder},mode=max"}.get(
        kind, f"type=registry,ref={repository}:cache,mode={kind}"
    )
    source = {"inline": f"type=registry,ref={repository}:one", "local": f"type=local,src={folder}"}.get(
        kind, f"type=registry,ref={repository}:cache"
    )
    exporting, importing = builders.in_turn(first)
    with recorded(name, recordings, bases, tmp_path) as build:
        exporting(build, f"{repository}:one", "--cache-to", export)
        output = importing(build, f"{repository}:two", "--cache-from", source)
    hits, steps = cached(output)
    record_property("cached", f"{name} {kind} {first} {hits}/{steps}")
    assert steps >= 1
    assert hits == steps, output


def test_what_is_inline_is_read_out_of_an_image_of_several_platforms_with_attestations(
    builders: Builders,
    docker_registry: RunningRegistry,
    recordings: Path,
    bases: builds.Bases,
    tmp_path: Path,
) -> None:
    with recorded("c24-multiplatform-scratch", recordings, bases, tmp_path) as build:
        pass  # it needs no servers
    attested = build._replace(buildctl=[*build.buildctl, "--opt", "attest:provenance=mode=max"])
    name = f"{docker_registry.host}/interop/attested"
    builders.buildkit(attested, f"{name}:one", "--cache-to", "type=inline")
    for builder in (builders.inlay, builders.buildkit):
        output = builder(build, f"{name}:two", "--cache-from", f"type=registry,ref={name}:one")
        hits, steps = cached(output)
        assert steps == 6
        assert hits == steps, output
