"""Downloads, checkouts and contexts by URL: a real BuildKit and inlay warm each other's builds, and write the same
keys, those of content among them."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from gitserver import GitServer, Repository
from running import run_inlay
from web import Page, Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from buildkit import Daemon

    from conftest import RunningRegistry

pytestmark = [pytest.mark.interop, pytest.mark.root]

DATE = {"Last-Modified": "Fri, 01 Mar 2024 10:20:30 GMT", "ETag": '"one"'}
SHA = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
IN_CONTEXT = "FROM scratch\nCOPY sub /a\nCOPY f* /b/\nADD sub/s /c\n"

DOWNLOADS = """FROM @BASE@
ADD @WEB@/h /d/
ADD --chmod=0755 @WEB@/h /d/x
ADD --chown=7:8 @WEB@/undated?q=1 /d/y
ADD --checksum=@SHA@ @WEB@/h /d/z
ADD --unpack @WEB@/a.tar.gz /d/u/
ADD --link @WEB@/a.tar.gz /d/
RUN --mount=from=page,target=/m cat /m/context > /d/m
"""
CHECKOUTS = """FROM @BASE@
ADD @GIT@/repo.git#main /a
ADD @GIT@/repo.git#v1 /b
ADD @GIT@/repo.git#main:sub /c
ADD --checksum=@COMMIT@ @GIT@/repo.git /d
ADD @GIT@/repo.git#@COMMIT@ /e
ADD @GIT@/repo.git?branch=main&submodules=false /f
COPY --from=repo f sub /g/
"""
KEPT = "FROM @BASE@\nADD --keep-git-dir @GIT@/repo.git#main /a\nADD --keep-git-dir @GIT@/repo.git#v1 /b\n"
SUBMODULES = "FROM @BASE@\nADD @GIT@/outer.git /a\n"


def archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in (("Dockerfile", IN_CONTEXT), ("f1", "1"), ("f2", "2"), ("sub/s", "s")):
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.mode = len(text), 5, 0o640
            tar.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(packed.getvalue(), mtime=0)


@pytest.fixture
def git(tmp_path: Path) -> Iterator[GitServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    served = GitServer(folder)
    repository = Repository(folder, "repo")
    (repository.work / "Dockerfile").write_text(IN_CONTEXT)
    (repository.work / "run").write_text("#!/bin/sh\n")
    (repository.work / "run").chmod(0o755)
    (repository.work / "link").symlink_to("f")
    repository.commit(f="one\n", sub__s="s\n")
    repository.git("tag", "-a", "-m", "x", "v1")
    repository.push("refs/tags/v1")
    outer = Repository(folder, "outer")
    outer.git("submodule", "add", "-q", str(repository.bare), "inner")
    outer.git("config", "-f", ".gitmodules", "submodule.inner.url", "../repo.git")
    outer.commit(o="outer\n")
    yield served
    served.close()


@pytest.fixture
def web() -> Iterator[Web]:
    served = Web()
    served.pages["/h"] = Page(b"hello\n", headers=DATE)
    served.pages["/undated"] = Page(b"hello\n")
    served.pages["/a.tar.gz"] = Page(archive(), headers=DATE)
    served.pages["/Dockerfile"] = Page(b"FROM scratch\nCOPY context /x\n")
    yield served
    served.close()


class Job:
    """One build, for either builder. `options` are BuildKit's `--opt`s; `context` replaces the folder."""

    def __init__(
        self, folder: Path, repository: str, daemon: Daemon, context: str, named: dict[str, str]
    ) -> None:
        self.folder = folder
        self.repository = repository
        self.daemon = daemon
        self.context = context
        self.named = named

    def buildkit(self, tag: str, *cache: str) -> str:
        assert self.daemon.ctl("prune", "--all").returncode == 0
        options = [f"context:{name}={place}" for name, place in self.named.items()]
        options += [f"context={self.context}"] if self.context else []
        local = [f"{name}={self.folder}" for name in ("context", "dockerfile")] if not self.context else []
        flags = {"--cache-to": "--export-cache", "--cache-from": "--import-cache"}
        done = self.daemon.ctl(
            *("build", "--progress", "plain", "--frontend", "dockerfile.v0"),
            *("--output", f"type=image,name={self.repository}:{tag},push=true"),
            *(part for option in options for part in ("--opt", option)),
            *(part for place in local for part in ("--local", place)),
            *(flags.get(part, part) for part in cache),
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def inlay(self, tag: str, *cache: str) -> str:
        done = run_inlay(
            *("build", "--progress", "plain", "--root", f"{self.folder}/store-{tag}"),
            *("-t", f"{self.repository}:{tag}", "--push", *cache),
            *(part for name, place in self.named.items() for part in ("--build-context", f"{name}={place}")),
            self.context or str(self.folder),
        )
        assert done.code == 0, done.err
        return done.err


@pytest.fixture(
    params=["downloads", "checkouts", "kept", "submodules", "git context", "tar context", "web Dockerfile"]
)
def job(
    request: pytest.FixtureRequest,
    daemon: Daemon,
    docker_registry: RunningRegistry,
    base: str,
    git: GitServer,
    web: Web,
    tmp_path: Path,
) -> Job:
    texts = {"downloads": DOWNLOADS, "checkouts": CHECKOUTS, "kept": KEPT, "submodules": SUBMODULES}
    contexts = {
        "git context": f"{git.url}/repo.git#main",
        "tar context": f"{web.url}/a.tar.gz",
        "web Dockerfile": f"{web.url}/Dockerfile",
    }
    kind: str = request.param
    commit = Repository.head(git.folder / "repo.git")
    fields = {"@BASE@": base, "@WEB@": web.url, "@GIT@": git.url, "@SHA@": SHA, "@COMMIT@": commit}
    text = texts.get(kind, "")
    for name, value in fields.items():
        text = text.replace(name, value)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "Dockerfile").write_text(text)
    named = {"page": f"{web.url}/h"} if kind == "downloads" else {}
    named |= {"repo": f"{git.url}/repo.git#main"} if kind == "checkouts" else {}
    repository = f"{docker_registry.host}/interop/sources-{kind.lower().replace(' ', '-')}"
    return Job(folder, repository, daemon, contexts.get(kind, ""), named)


@pytest.mark.parametrize("first", ["buildkit", "inlay"])
def test_all_steps_are_cached(job: Job, first: str) -> None:
    builders: list[Callable[..., str]] = [job.buildkit, job.inlay]
    one, two = builders if first == "buildkit" else builders[::-1]
    one(f"{first}-one", "--cache-to", "type=inline")
    text = two(f"{first}-two", "--cache-from", f"type=registry,ref={job.repository}:{first}-one")
    steps = re.findall(r"^#(\d+) (\[(?!internal)[^\]]*\] (?:COPY|ADD|RUN|LINK).*)", text, re.M)
    # A download or checkout bears the name of its step. It is looked up; what is made of it must be cached.
    hits = {name for number, name in steps if re.search(rf"^#{number} CACHED$", text, re.M)}
    assert steps
    assert hits == {name for _, name in steps}, text


def test_both_write_the_same_records(job: Job, request: pytest.FixtureRequest) -> None:
    """Those of content, too: but for what BuildKit itself does not write twice the same."""
    job.buildkit("bk", "--cache-to", f"type=registry,ref={job.repository}:bk-cache,mode=max")
    job.inlay("own", "--cache-to", f"type=registry,ref={job.repository}:own-cache,mode=max")
    graphs = [record_graph(job.repository, tag) for tag in ("bk-cache", "own-cache")]
    if any(kind in request.node.name for kind in ("kept", "submodules")):
        # A .git folder, and a .git file that names a folder of the daemon, are in the digests.
        graphs = [{digest for digest, _ in graph} for graph in graphs]
        assert len(graphs[0] ^ graphs[1]) <= 4
    else:
        assert graphs[0] == graphs[1]


def record_graph(repository: str, tag: str) -> set[Any]:
    """The records of a cache, each as its digest and, for every input, by which links it is reached."""
    host, _, path = repository.partition("/")

    def get(kind: str, name: str) -> Any:
        accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
        url = f"http://{host}/v2/{path}/{kind}/{name}"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as answer:
            return json.loads(answer.read())

    config = get("blobs", get("manifests", tag)["config"]["digest"])
    known: dict[int, Any] = {}

    def name(number: int) -> Any:
        if number not in known:
            record = config["records"][number]
            inputs = tuple(
                frozenset((link.get("selector", ""), name(link.get("link", 0))) for link in links)
                for links in record.get("inputs") or ()
            )
            known[number] = record["digest"], inputs
        return known[number]

    return {name(number) for number in range(len(config["records"]))}
