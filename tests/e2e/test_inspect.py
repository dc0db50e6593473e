"""`inlay cache inspect`: every place and form that a cache may have, and what of a Dockerfile would hit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry
    from running import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DOCKERFILE = """FROM @BASE@ AS tools
RUN echo tools > /tools

FROM @BASE@
COPY src /src
COPY --from=tools /tools /tools
"""
STEPS = ["[tools 2/2]", "[stage-1 2/3]", "[stage-1 3/3]"]


class Desk:
    """A context, its builds and their caches."""

    def __init__(self, folder: Path, base: str, run: Callable[..., Outcome]) -> None:
        self.folder, self.context, self.inlay = folder, folder / "context", run
        self.context.mkdir()
        (self.context / "src").write_text("first")
        (self.context / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))

    def build(self, *flags: str) -> None:
        done = self.inlay("build", "-q", "--root", str(self.folder / "store"), *flags, str(self.context))
        assert done.code == 0, done.err

    def inspect(self, *arguments: str, store: str = "other") -> str:
        done = self.inlay("cache", "inspect", "--root", str(self.folder / store), *arguments)
        assert done.code == 0, done.err
        return done.out

    def json(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.inspect("--json", *arguments))
        return found


@pytest.fixture
def desk(tmp_path: Path, base: str, inlay: Callable[..., Outcome]) -> Desk:
    return Desk(tmp_path, base, inlay)


def kinds(cache: dict[str, Any]) -> list[str]:
    return sorted(record["kind"] for record in cache["records"])


def test_an_inline_cache_in_a_registry(desk: Desk, docker_registry: RunningRegistry) -> None:
    name = f"{docker_registry.host}/inspected:1"
    desk.build("-t", name, "--push", "--cache-to", "type=inline")
    (cache,) = desk.json(name)["caches"]
    assert (cache["form"], cache["platform"]) == ("inline", "linux/amd64")
    assert kinds(cache) == ["content"] * 2 + ["source"] * 2 + ["step"] * 3
    by_number = {record["number"]: record for record in cache["records"]}
    assert list(by_number) == list(range(1, 8))
    last = by_number[7]
    assert last["step"] == "COPY /tools /tools"
    for record in cache["records"]:
        assert all(link < record["number"] for links in record["inputs"] for link in links)
    below = [by_number[link] for link in last["inputs"][0]]
    assert [record["step"] for record in below] == ["COPY src /src"]
    # The other stage is known by what it was made of, or by its content; its layers are not the image's.
    assert sorted(by_number[link]["kind"] for link in last["inputs"][1]) == ["content", "step"]
    assert sum(bool(record["layers"]) for record in cache["records"]) == 2
    assert len(last["layers"]) == 3
    text = desk.inspect(name)
    assert "7 records: 3 of steps (2 with layers), 2 of sources, 2 of content" in text
    assert "COPY src /src" in text


def test_the_cache_of_other_stages_beside_an_image(desk: Desk, docker_registry: RunningRegistry) -> None:
    name = f"{docker_registry.host}/inspected:2"
    desk.build("-t", name, "--push", "--cache-to", "type=inline,mode=max")
    inline, beside = desk.json(name)["caches"]
    assert (inline["form"], beside["form"]) == ("inline", "beside")
    assert any(record["layers"] and record["digest"] in json.dumps(inline) for record in beside["records"])


@pytest.mark.parametrize(("flags", "form"), [("", "image-manifest"), (",image-manifest=false", "index")])
def test_a_cache_in_a_registry_and_one_in_a_folder_are_shown_alike(
    desk: Desk, docker_registry: RunningRegistry, flags: str, form: str
) -> None:
    name = f"{docker_registry.host}/inspected:{form}"
    folder = desk.folder / "cache"
    local = f"type=local,dest={folder},mode=max{flags}"
    desk.build("--cache-to", f"type=registry,ref={name},mode=max{flags}", "--cache-to", local)
    (there,), (here,) = desk.json(name)["caches"], desk.json(str(folder))["caches"]
    assert there["form"] == here["form"] == form
    assert there["records"] == here["records"]
    assert sum(bool(record["layers"]) for record in there["records"]) == 3
    assert "[stage-1 2/3] COPY src /src" not in desk.inspect(str(folder))
    assert "[stage-1 2/3] COPY src /src" in desk.inspect(str(folder), store="store")  # it was built there


def test_layouts_as_folders_and_archives_with_and_without_a_tag(desk: Desk) -> None:
    for number, text in enumerate(("first", "second"), start=1):
        (desk.context / "src").write_text(text)
        desk.build(
            "-t", f"app:{number}", "--cache-to", "type=inline",
            "-o", "type=image", "-o", f"type=oci,dest={desk.folder}/layout,tar=false",
            "-o", f"type=oci,dest={desk.folder}/archive.tar",
        )  # fmt: skip
    first, second = (desk.json(f"{desk.folder}/layout:{n}")["caches"][0] for n in (1, 2))
    assert first["manifest"] != second["manifest"]
    assert desk.json(f"{desk.folder}/layout@{first['manifest']}")["caches"] == [first]
    assert desk.json(f"{desk.folder}/archive.tar")["caches"] == [second]
    (here,) = json.loads(desk.inspect("--json", "app:2", store="store"))["caches"]
    assert here["manifest"] == second["manifest"]
    unclear = desk.inlay("cache", "inspect", f"{desk.folder}/layout")
    assert unclear.code == 1
    assert "2 images; name one" in unclear.err


def test_what_is_no_cache(desk: Desk, docker_registry: RunningRegistry, base: str) -> None:
    for name, said in (
        (base, "without a cache"),
        (f"{docker_registry.host}/nowhere:1", "nowhere"),
        (str(desk.context), "no OCI image layout"),
    ):
        done = desk.inlay("cache", "inspect", name)
        assert done.code == 1, done.err
        assert said in done.err
    assert desk.inlay("cache", "inspect", "./missing").code == 2


def test_which_steps_would_hit(desk: Desk, docker_registry: RunningRegistry) -> None:
    name = f"{docker_registry.host}/inspected:3"
    desk.build("-t", name, "--push", "--cache-to", "type=inline")
    flags = (name, "--for", str(desk.context))
    assert "3 of 3 steps of" in desk.inspect(*flags)
    (desk.context / "src").write_text("second")
    steps = desk.json(*flags)["steps"]
    # The changed COPY is the first of three; the last one needs the other stage, whose layers are not here.
    assert [(step["name"].partition("]")[0] + "]", step["outcome"]) for step in steps] == [
        (STEPS[0], "missing"),
        (STEPS[1], "missing"),
        (STEPS[2], "missing"),
    ]
    assert steps[0]["reasons"][0].startswith("a cache knows it, but keeps no layers of it")
    text = desk.inspect(*flags)
    assert "0 of 3 steps of" in text
    assert "Why steps would have to run" in text
    assert not (desk.folder / "other/snapshots").exists()  # nothing ran, nothing was unpacked
    # What this store has built is no part of the question.
    assert "0 of 3 steps of" in desk.inspect(*flags, store="store")
    assert "~ src: 5 bytes → 6 bytes" in desk.inspect(*flags, store="store")


def test_each_platform_of_an_image(desk: Desk, docker_registry: RunningRegistry) -> None:
    name = f"{docker_registry.host}/inspected:4"
    (desk.context / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")
    desk.build("-t", name, "--push", "--cache-to", "type=inline", "--platform", "linux/amd64,linux/arm64")
    caches = desk.json(name)["caches"]
    assert [cache["platform"] for cache in caches] == ["linux/amd64", "linux/arm64"]
    assert desk.json(name, "--for", str(desk.context), "--platform", "linux/arm64")["steps"][0][
        "outcome"
    ] == ("cached")
