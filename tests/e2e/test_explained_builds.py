"""`--explain` and `--require-cached`: what they say of real builds, from local and imported caches."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import inlay as inlay_package
from web import Page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry
    from running import Outcome
    from web import Web

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DOCKERFILE = """FROM @BASE@ AS tools
ARG VERSION=1
RUN echo tools $VERSION > /tools

FROM @BASE@
COPY src/ /src/
RUN cat /src/* > /all
COPY --from=tools /tools /tools
"""


class Project:
    """A context that is built with one store after another."""

    def __init__(self, folder: Path, base: str, run: Callable[..., Outcome]) -> None:
        self.folder = folder / "context"
        self.store = folder / "store"
        self._run = run
        (self.folder / "src").mkdir(parents=True)
        self.write("Dockerfile", DOCKERFILE.replace("@BASE@", base))
        self.write("src/a", "a")
        self.write("src/b", "b")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def replace(self, old: str, new: str) -> None:
        text = (self.folder / "Dockerfile").read_text()
        assert old in text
        self.write("Dockerfile", text.replace(old, new))

    def build(self, *flags: str, code: int = 0) -> str:
        """Build; return what the report says."""
        done = self._run(
            "build", "--root", str(self.store), "--progress", "quiet", "--explain", *flags, str(self.folder)
        )
        assert done.code == code, done.err
        return done.err

    def forget(self) -> None:
        shutil.rmtree(self.store)


@pytest.fixture
def project(tmp_path: Path, base: str, inlay: Callable[..., Outcome]) -> Project:
    return Project(tmp_path, base, inlay)


def block(report: str, line: int) -> list[str]:
    """What the report says of the step at a line of the Dockerfile."""
    _, _, rest = report.partition(f"  Dockerfile:{line}  ")
    return [text.strip() for text in rest.partition("\n\n")[0].splitlines()[1:]]


def test_a_first_build_and_one_with_all_steps_cached(project: Project) -> None:
    first = project.build()
    assert block(first, 3) == ["there is nothing in any cache yet"]
    assert block(first, 7) == ["made from [stage-1 2/4], which ran"]
    assert project.build() == "\nEvery step was cached (4 of 4).\n\n"


def test_files_that_changed_are_named(project: Project) -> None:
    project.build()
    project.write("src/a", "longer")
    os.chmod(project.folder / "src/b", 0o755)
    project.write("src/new", "")
    report = project.build()
    assert block(report, 6) == [
        "what it takes from the build context has changed",
        "~ src/a: 1 byte → 6 bytes",
        "~ src/b: mode 0644 → 0755",
        "+ src/new: 0 bytes",
    ]
    assert block(report, 7) == ["made from [stage-1 2/4], which ran"]
    assert "Dockerfile:3 " not in report  # it was cached
    project.write("src/a", "LONGER")
    (project.folder / "src/b").unlink()
    (project.folder / "src/b").symlink_to("a")
    changed = block(project.build(), 6)[1:]
    assert changed[0].startswith("~ src/a: content ")
    assert changed[1:] == ["~ src/b: 1 byte → link"]
    (project.folder / "src/new").unlink()
    assert block(project.build(), 6)[1:] == ["- src/new: 0 bytes"]


def test_of_several_earlier_contents_the_nearest_is_taken(project: Project) -> None:
    for text in ("1", "2", "3"):
        project.write("src/a", text)
        project.write("src/b", text)
        project.build()
    project.write("src/b", "1")
    project.write("src/a", "1")
    project.write("src/c", "")
    assert block(project.build(), 6)[1:] == ["+ src/c: 0 bytes"]


def test_the_argument_that_changed_is_named(project: Project) -> None:
    project.build()
    report = project.build("--build-arg", "VERSION=2")
    assert block(report, 3) == ["the step itself has changed", "~ variable VERSION: 1 → 2"]
    assert block(report, 8) == ["what it takes from [tools 2/2] has changed", block(report, 8)[1]]
    assert block(report, 8)[1].startswith("~ tools: content ")
    project.replace("RUN cat /src/* > /all", "RUN cat /src/* /etc/group > /all")
    assert block(project.build(), 7) == [
        "the step itself has changed",
        "~ command: cat /src/* > /all → cat /src/* /etc/group > /all",
    ]
    project.replace("RUN cat", "RUN --network=none cat")
    assert block(project.build(), 7)[1:] == ["~ network: sandbox → none"]
    project.replace("COPY src/ /src/", "COPY --chmod=700 src/ /src/")
    assert block(project.build(), 6)[1:] == ["+ mode: 0700"]


def test_a_quite_different_step_is_not_compared(project: Project) -> None:
    project.build()
    project.replace("RUN cat /src/* > /all", "WORKDIR /elsewhere")
    assert block(project.build(), 7) == [
        "no cache has this step; what there is on the same input:",
        "- cached here: [stage-1 3/4] RUN cat /src/* > /all",
    ]


def test_another_base_image_is_named_with_both_digests(
    project: Project,
    base: str,
    docker_registry: RunningRegistry,
    tmp_path: Path,
    inlay: Callable[..., Outcome],
) -> None:
    moving = f"{docker_registry.host}/moving:1"
    (tmp_path / "base").mkdir()
    digests = []
    for text in ("one", "two"):
        (tmp_path / "base/Dockerfile").write_text(f"FROM {base}\nRUN echo {text} > /which\n")
        made = inlay(
            "build", "-q", "--root", str(tmp_path / "other"), "-t", moving, "--push", str(tmp_path / "base")
        )
        assert made.code == 0, made.err
        digests.append(made.out.strip()[:19])
        project.replace(base if text == "one" else moving, moving)
        report = project.build()
    assert block(report, 3) == [
        f"no cache has anything made on {moving}@{digests[1]}",
        f"~ {moving}: {digests[0]} → {digests[1]}",
    ]
    assert block(report, 6) == block(report, 3)


def test_what_an_imported_cache_can_tell(project: Project, docker_registry: RunningRegistry) -> None:
    name = f"{docker_registry.host}/explained:1"
    project.build("-t", name, "--push", "--cache-to", "type=inline")
    project.forget()
    project.replace("cat /src/* > /all", "cat /src/b > /all")
    project.write("src/a", "other")
    flags = ("--cache-from", name, "--require-cached")
    report = project.build(*flags, code=3)
    reason = (
        "what it takes from the build context has changed; caches have it with other content, by digest only"
    )
    assert block(report, 6)[0].startswith(reason)
    project.write("src/a", "a")
    report = project.build(*flags, code=3)
    assert block(report, 7) == [
        "no cache has this step; what there is on the same input:",
        "- in an imported cache: RUN /bin/sh -c cat /src/* > /all",
    ]
    project.replace("cat /src/b > /all", "cat /src/* > /all")
    project.replace("COPY --from=tools /tools /tools", "COPY --from=tools /tools /other")
    report = project.build(*flags, code=3)
    assert block(report, 3)[0].startswith("a cache knows it, but keeps no layers of it")


def test_a_cache_of_another_base_says_so(
    project: Project,
    docker_registry: RunningRegistry,
    base: str,
    tmp_path: Path,
    inlay: Callable[..., Outcome],
) -> None:
    name, other = f"{docker_registry.host}/explained:2", f"{docker_registry.host}/moving:2"
    project.build("-t", name, "--push", "--cache-to", "type=inline")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text(f"FROM {base}\nRUN echo other > /which\n")
    made = inlay("build", "-q", "--root", str(tmp_path / "o"), "-t", other, "--push", str(tmp_path / "base"))
    assert made.code == 0, made.err
    project.forget()
    project.replace(base, other)
    report = project.build("--cache-from", name, "--require-cached", code=3)
    reason = block(report, 3)[0]
    assert reason.startswith(
        f"no cache has anything made on {other}@{made.out.strip()[:19]}; {name} is of another base"
    )
    assert reason.endswith("roots is this one")


def test_a_layer_that_vanished_is_named(project: Project) -> None:
    project.build()
    for folder in (project.store / "snapshots").iterdir():
        if (folder / "fs/all").exists():
            shutil.rmtree(folder)
    for blob in (project.store / "blobs/sha256").iterdir():
        blob.unlink()
    report = project.build()
    assert "it was cached, but layer " in report
    assert " is no longer in the store" in report


def test_a_download_that_changed(project: Project, web: Web) -> None:
    url = f"{web.url}/data.txt"
    project.replace("COPY src/ /src/", f"ADD {url} /src/")
    web.pages["/data.txt"] = Page(b"one")
    project.build()
    web.pages["/data.txt"] = Page(b"three")
    assert block(project.build(), 6) == [
        f"what it takes from {url} has changed",
        "~ data.txt: 3 bytes → 5 bytes",
    ]


def test_steps_that_were_not_to_be_cached(project: Project) -> None:
    project.build()
    assert block(project.build("--no-cache"), 3) == ["--no-cache was given"]
    report = project.build("--no-cache-filter", "tools")
    assert block(report, 3) == ["--no-cache-filter names its stage"]


def test_require_cached_runs_and_pushes_nothing(project: Project, docker_registry: RunningRegistry) -> None:
    project.build()
    project.write("src/a", "other")
    layers = sorted(os.listdir(project.store / "snapshots"))
    log = len((docker_registry.folder / "log").read_bytes())
    name = f"{docker_registry.host}/never:1"
    report = project.build("--require-cached", "-t", name, "--push", code=3)
    assert "Why steps would have to run" in report
    assert report.endswith("inlay: 3 steps are not in the cache\n")
    assert sorted(os.listdir(project.store / "snapshots")) == layers
    sent = [line for line in docker_registry.requests(log) if not line.startswith(("GET", "HEAD"))]
    assert sent == []
    project.write("src/a", "a")
    project.build("--require-cached", "-t", name, "--push")


def test_require_cached_names_the_step_whose_inline_document_has_changed(project: Project) -> None:
    project.replace("COPY src/ /src/\n", "COPY src/ /src/\nCOPY <<E /src/c\none\nE\n")
    project.build()
    project.replace("one", "two")
    report = project.build("--require-cached", code=3)
    assert block(report, 7)[0] == "what it takes from its inline document has changed"
    assert report.endswith("inlay: 3 steps are not in the cache\n")


def test_a_failing_build_is_explained_too(project: Project) -> None:
    project.build()
    project.replace("cat /src/* > /all", "cat /src/* > /all && false")
    report = project.build(code=1)
    assert block(report, 7)[0] == "the step itself has changed"


def test_programs_get_the_explanation(project: Project, tmp_path: Path) -> None:
    project.build()
    project.write("src/a", "longer")
    project.build("--metadata-file", str(tmp_path / "meta.json"))
    steps = json.loads((tmp_path / "meta.json").read_text())["inlay.steps"]
    ran = next(step for step in steps if step["location"] == "Dockerfile:6")
    assert ran["outcome"] == "ran"
    assert ran["reasons"] == ["what it takes from the build context has changed"]
    assert ran["changes"] == [{"what": "src/a", "before": "1 byte", "after": "6 bytes"}]
    project.write("src/a", "x")
    result = inlay_package.build(project.folder, root=project.store, explain=True)
    step = next(step for step in result.steps if step.location == "Dockerfile:6")
    assert step.explanation is not None
    assert [change.what for change in step.explanation.changes] == ["src/a"]
    project.write("src/a", "y")
    with pytest.raises(inlay_package.NotCached) as caught:
        inlay_package.build(project.folder, root=project.store, require_cached=True)
    assert [step.outcome for step in caught.value.steps] == ["cached", "missing", "missing", "missing"]


def test_what_another_machine_would_find(project: Project, docker_registry: RunningRegistry) -> None:
    name = f"{docker_registry.host}/explained:3"
    project.build("-t", name, "--push", "--cache-to", "type=inline")
    options: dict[str, Any] = {"root": project.store, "require_cached": True, "local_cache": False}
    found = inlay_package.build(project.folder, cache_from=[name], **options)
    assert [step.outcome for step in found.steps] == ["cached"] * 4
    with pytest.raises(inlay_package.NotCached) as caught:
        inlay_package.build(project.folder, **options)
    assert [step.outcome for step in caught.value.steps] == ["missing"] * 4


def test_nothing_secret_is_remembered(project: Project, inlay: Callable[..., Any]) -> None:
    project.replace("RUN cat", "RUN --mount=type=secret,id=t,env=T cat")
    done = inlay(
        "build", "--root", str(project.store), "--secret", "id=t,env=TOKEN", str(project.folder),
        env={"TOKEN": "hush-4711"},
    )  # fmt: skip
    assert done.code == 0, done.err
    journal = list((project.store / "journal").iterdir())
    assert journal
    assert not any(b"hush-4711" in file.read_bytes() for file in journal)
