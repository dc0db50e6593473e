"""Whole builds that BuildKit was recorded to do, done again: the layers hold the same trees.

A case is a folder with a Dockerfile, contexts as tars, the arguments of the build, and the layers of all its
steps (tests/vectors/cache/README.md). It is built by `inlay build`, and what each record of the exported
cache leads to is held against what the recorded one leads to.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from vectors.servers import RECORDED_SERVER, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[[list[str], Path], subprocess.CompletedProcess[str]]

RECORDED_HOST = "127.0.0.1:5000"
_FLAGS = {
    "platform": ("--platform", "{}"),
    "shm-size": ("--shm-size", "{}"),
    "hostname": ("--build-arg", "BUILDKIT_SANDBOX_HOSTNAME={}"),
}
"""docker's flags for options of the frontend."""

MOUNTED_ON = ("dev", "proc", "sys")
"""What runtimes mount things on: these are made by steps."""

Tree = dict[str, tuple[object, ...]]
"""The members of a layer: what each of them is, by its name."""
Chain = list[Tree | None]
"""The layers of a result above the base image; None for one that was not kept."""


class Bases:
    """Recorded base images, in a registry and as layouts. `folder` holds an OCI layout for each."""

    def __init__(self, folder: Path, host: str) -> None:
        self.folder = folder
        self.host = host

    def push(self) -> None:
        names = {"busybox": "busybox", "onbuildbase": "cs/onbuildbase", "mpbase": "cs/mpbase"}
        for folder, name in names.items():
            target = f"docker://{self.host}/{name}:latest"
            command = ["skopeo", "copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false"]
            subprocess.run([*command, f"oci:{self.folder}/{folder}:latest", target], check=True)

    @cached_property
    def layers(self) -> set[str]:
        """The digests of all their layers."""
        listed = self.folder / "layers.json"
        found = set(json.loads(listed.read_text())) if listed.exists() else set()
        for path in self.folder.glob("*/blobs/sha256/*"):
            head = path.read_bytes()[:1]
            manifest = json.loads(path.read_bytes()) if head == b"{" else {}
            found |= {layer["digest"] for layer in manifest.get("layers", ())}
        return found

    def digest(self, name: str) -> str:
        index = json.loads((self.folder / name / "index.json").read_text())
        digest: str = index["manifests"][0]["digest"]
        return digest


class RecordedBuild:
    """One case; `work` is an empty folder for what building it needs."""

    def __init__(self, folder: Path, bases: Bases, work: Path, run: Run | None = None) -> None:
        """`run` runs a command, perhaps as somebody else, to whom it has to give what is in the folder."""
        self.name = folder.name
        self._run = run or _run
        self._folder = folder
        self._bases = bases
        self._work = work
        self._facts = json.loads((folder / "build.json").read_text())
        self._newest_input_s = 0.0
        self._server = ""

    def build(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Build it with `inlay build`; the cache goes to `work/cache`, all of it."""
        with self.served():
            return self._build(*flags)

    @contextmanager
    def served(self) -> Iterator[None]:
        """Run the web and git servers that the Dockerfile names, if it names any."""
        with serve(self._folder, self._work) as self._server:
            yield

    def _build(self, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "inlay",
            "build",
            "--progress",
            "plain",
            "--root",
            f"{self._work}/store",
        ]
        command += ["--cache-to", f"type=local,dest={self._work}/cache,mode=max", "-t", "x"]
        return self._run([*command, *flags, *self.inlay_arguments()], self._work)

    def inlay_arguments(self) -> list[str]:
        """What `inlay build` is to be told of the Dockerfile and all contexts."""
        return ["-f", str(self._dockerfile()), *self._arguments(), str(self._context("context"))]

    def buildctl_arguments(self) -> list[str]:
        """The same for `buildctl build`."""
        arguments = [self._relocated(text) for text in self._facts["args"]]
        for n, (flag, value) in enumerate(pairwise(list(arguments))):
            name, _, path = value.partition("=")
            if flag == "--oci-layout":
                arguments[n + 1] = f"{name}={self._bases.folder}/busybox"
            elif value.startswith("context:") and path.startswith("local:"):
                arguments += ["--local", f"{path[6:]}={self._context(f'ctx-{path[6:]}')}"]
            elif value.startswith("context:") and path.startswith("oci-layout:"):
                arguments[n + 1] = f"{name}=oci-layout://bb@{self._bases.digest('busybox')}"
            elif flag == "--secret":
                (self._work / "file.bin").write_bytes(b"secret")
                arguments[n + 1] = value.replace("src=", f"src={self._work}/")
        local = (f"context={self._context('context')}", f"dockerfile={self._dockerfile().parent}")
        return [*arguments, "--local", local[0], "--local", local[1]]

    def _dockerfile(self) -> Path:
        text = (self._folder / "Dockerfile").read_text()
        path = self._work / "Dockerfile"
        path.write_text(self._relocated(text))
        return path

    def _relocated(self, text: str) -> str:
        """`text` with this machine's servers in the place of the recorded ones."""
        text = text.replace(RECORDED_HOST, self._bases.host)
        return text.replace(RECORDED_SERVER, self._server) if self._server else text

    def _arguments(self) -> Iterator[str]:
        arguments = iter(self._facts["args"])
        for flag, value in zip(arguments, arguments, strict=True):
            if flag == "--opt":
                yield from self._option(*value.split("=", 1))
            elif flag == "--secret":
                (self._work / "file.bin").write_bytes(b"secret")
                yield from (flag, value.replace("src=", f"src={self._work}/"))
            elif flag == "--allow":
                yield from (flag, value)

    def _option(self, name: str, value: str) -> Iterator[str]:
        kind, _, rest = name.partition(":")
        value = self._relocated(value)
        if kind == "context":
            if value.startswith("local:"):
                value = str(self._context("ctx-" + value[6:]))
            elif value.startswith("oci-layout:"):
                value = f"oci-layout://{self._bases.folder}/busybox@{self._bases.digest('busybox')}"
            yield from ("--build-context", f"{rest}={value}")
        elif kind == "build-arg":
            yield from ("--build-arg", f"{rest}={value}")
        elif kind in ("add-hosts", "ulimit"):
            for each in value.split(","):
                yield from ("--add-host" if kind == "add-hosts" else "--ulimit", each)
        elif value:
            flag, text = _FLAGS[kind]
            yield from (flag, text.format(value))

    def _context(self, name: str) -> Path:
        """The folder of a context, as it was."""
        folder = self._work / name
        if not folder.exists():
            folder.mkdir()
            archive = self._folder / f"{name}.tar"
            options = ["-p", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
            subprocess.run(["tar", "-xf", archive, "-C", folder, *options], check=True)
            with tarfile.open(archive) as members:
                self._newest_input_s = max([self._newest_input_s, *(member.mtime for member in members)])
            for entry in self._facts.get("sockets_not_in_tar", ()):
                _make_socket(folder / entry["path"], int(entry["mode"], 8), self._newest_input_s)
        return folder

    def differences(self, started: float) -> list[str]:
        """Where the trees of the build that began at `started` differ from the recorded ones."""
        recorded_cache = json.loads((self._folder / "cacheconfig.json").read_text())["max"]
        if recorded_cache is None:
            return []
        recorded = _results(recorded_cache["config"], self._recorded_layer, self._bases.layers)
        made = _results(*self._exported(), self._bases.layers)
        found = []
        for digest in sorted(recorded.keys() | made.keys()):
            theirs, ours = recorded.get(digest, []), made.get(digest, [])
            found += [f"{digest[:19]}: {text}" for text in unlike(theirs, ours, self._times(started))]
        return found

    def _times(self, started: float) -> Times:
        epoch = next(
            (each.rpartition("=")[2] for each in self._facts["args"] if "SOURCE_DATE_EPOCH=" in each), "inf"
        )
        return Times(self._newest_input_s, started, float(epoch))

    def _recorded_layer(self, digest: str) -> bytes | None:
        """The bytes of a layer; None for those that were too big to be kept."""
        path = self._folder / "layers" / digest.replace(":", "-")
        return path.read_bytes() if path.exists() else None

    def _exported(self) -> tuple[dict[str, Any], Any]:
        cache = self._work / "cache"

        def blob(digest: str) -> bytes:
            return (cache / "blobs/sha256" / digest[7:]).read_bytes()

        index = json.loads((cache / "index.json").read_text())
        manifest = json.loads(blob(index["manifests"][0]["digest"]))
        return json.loads(blob(manifest["config"]["digest"])), blob


class Times(NamedTuple):
    """What a recorded time means: up to `newest_input_s` it is an input's, later it is when a step ran.

    Two differences are on purpose: folders that BuildKit gives the time of copying them keep their own, and
    SOURCE_DATE_EPOCH (`latest_s`) is the latest time there is.
    """

    newest_input_s: float
    started_s: float
    latest_s: float

    def agree(self, name: str, recorded: float, made: float) -> bool:
        recorded = min(recorded, self.latest_s)
        if recorded == made:
            return True
        now = int(self.started_s) <= made <= time.time()
        if name in MOUNTED_ON:
            return now
        return recorded > self.newest_input_s and (now or made <= self.newest_input_s)


def _results(config: dict[str, Any], read: Any, known: set[str]) -> dict[str, list[Chain]]:
    """The trees of the layers that each record's results have above the base image, by record digest."""
    results: dict[str, list[Chain]] = {}
    for record in config["records"]:
        for result in record.get("layers") or ():
            chain: Chain = []
            at = result["layer"]
            while at >= 0:
                layer = config["layers"][at]
                if layer["blob"] not in known:
                    data = read(layer["blob"])
                    chain.append(None if data is None else describe_layer(data))
                at = layer.get("parent", 0)
            results.setdefault(record["digest"], []).append(chain[::-1])
    return results


def unlike(theirs: list[Chain], ours: list[Chain], times: Times) -> Iterator[str]:
    """Which chains of one side none of the other is like, said by the nearest one's first difference."""
    if not theirs or not ours:
        yield "only BuildKit has it" if theirs else "only inlay has it"
        return
    for chain in theirs:
        near = min((list(_chain_differences(chain, other, times)) for other in ours), key=len)
        yield from near[:5]


def _chain_differences(theirs: Chain, ours: Chain, times: Times) -> Iterator[str]:
    if len(theirs) != len(ours):
        yield f"{len(theirs)} layers recorded, {len(ours)} made"
        return
    for number, (recorded, made) in enumerate(zip(theirs, ours, strict=True)):
        if recorded is None or made is None:
            continue
        for name in sorted(recorded.keys() | made.keys()):
            if "/.git/" in f"/{name}/":
                continue  # a repository that was kept: its index and logs tell times, its tags what else was fetched
            before, after = recorded.get(name), made.get(name)
            if before is None or after is None or before[1:] != after[1:]:
                yield f"layer {number}, {name}: recorded {before}, made {after}"
            elif not times.agree(name, before[0], after[0]):  # type: ignore[arg-type]
                yield f"layer {number}, {name}: its time is recorded as {before[0]}, made {after[0]}"


def describe_layer(data: bytes) -> Tree:
    """The members of a layer by name: time, mode, owner, kind, where it leads, attributes, content."""
    tree: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        for member in archive:
            xattrs = [(key, value) for key, value in member.pax_headers.items() if ".xattr." in key]
            content = ""
            if member.isreg():
                stream = archive.extractfile(member)
                assert stream is not None
                content = hashlib.sha256(stream.read()).hexdigest()
            tree[member.name] = (
                *(member.mtime, oct(member.mode), member.uid, member.gid, member.type, member.linkname),
                *(member.devmajor, member.devminor, sorted(xattrs), content),
            )
    return tree


def _make_socket(path: Path, mode: int, time_s: float) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    path.chmod(mode)
    os.utime(path, (time_s, time_s))


def _run(command: list[str], _: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SSH_AUTH_SOCK": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def check(folder: Path, bases: Bases, work: Path, *flags: str, run: Run | None = None) -> list[str]:
    """Build the case in `folder` and return what differs; nothing is left in `work`."""
    work.mkdir(parents=True)
    try:
        build = RecordedBuild(folder, bases, work, run)
        started = time.time()
        done = build.build(*flags)
        if done.returncode:
            return [f"the build failed: {done.stderr[-2000:]}"]
        return build.differences(started)
    finally:
        shutil.rmtree(work)
