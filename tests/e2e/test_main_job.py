"""The main job: an image carries the cache that made it, to a machine that has nothing else."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DOCKERFILE = """FROM @BASE@ AS build
WORKDIR /src
COPY src ./
RUN cat a.txt > /out.txt && echo built >> /out.txt
FROM @BASE@
ENV FOO=bar
RUN mkdir -p /app
COPY --from=build /out.txt /app/
COPY main.c /app/
CMD ["cat", "/app/out.txt"]
"""


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    (folder / "src").mkdir(parents=True)
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))
    (folder / "src/a.txt").write_text("hi\n")
    (folder / "main.c").write_text("print\n")
    return folder


def config_of(host: str, repository: str, tag: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    accept = "application/vnd.oci.image.manifest.v1+json"
    request = urllib.request.Request(
        f"http://{host}/v2/{repository}/manifests/{tag}", headers={"Accept": accept}
    )
    with urllib.request.urlopen(request) as answer:
        digest, manifest = answer.headers["Docker-Content-Digest"], json.loads(answer.read())
    with urllib.request.urlopen(
        f"http://{host}/v2/{repository}/blobs/{manifest['config']['digest']}"
    ) as answer:
        return digest, manifest, json.loads(answer.read())


def names_in(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_the_build_argument_that_docker_users_write_means_an_inline_cache(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    for value, carries in (("1", True), ("true", True), ("0", False)):
        name = f"argument-{value}"
        built = inlay(
            "build",
            "--root",
            str(tmp_path / "store"),
            "--push",
            "-t",
            f"{docker_registry.host}/{name}:1",
            "--build-arg",
            f"BUILDKIT_INLINE_CACHE={value}",
            str(context),
        )
        assert built.code == 0, built.err
        assert ("moby.buildkit.cache.v0" in config_of(docker_registry.host, name, "1")[2]) is carries


def test_a_fresh_machine_finds_every_step_in_the_image(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/main-job"
    build = ("build", "--progress", "plain", "--push", "--cache-to", "type=inline")
    first = inlay(*build, "--root", str(tmp_path / "one"), "-t", f"{ref}:1", str(context))
    assert first.code == 0, first.err
    mark = docker_registry.log_size()
    again = (
        *build,
        "--root",
        str(tmp_path / "two"),
        "-t",
        f"{ref}:2",
        "--cache-from",
        f"type=registry,ref={ref}:1",
    )
    second = inlay(*again, str(context))
    assert second.code == 0, second.err

    digest, manifest, config = config_of(docker_registry.host, "main-job", "1")
    assert json.loads(base64.b64decode(config["moby.buildkit.cache.v0"]))
    assert config_of(docker_registry.host, "main-job", "2")[0] == digest
    assert second.cached == 6
    assert " 0 run · " in second.err.splitlines()[-1]
    layers = {layer["digest"] for layer in manifest["layers"]}
    moved = [line for line in docker_registry.requests(mark) if any(layer in line for layer in layers)]
    assert not [line for line in moved if line.startswith(("GET", "PUT", "POST", "PATCH"))]
    history = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(history) == len(manifest["layers"])


def test_an_unchanged_build_makes_two_requests(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/unchanged:1"
    build = (
        "build",
        "--root",
        str(tmp_path / "s"),
        "--push",
        "--cache-to",
        "type=inline",
        "-t",
        ref,
        str(context),
    )
    assert inlay(*build).code == 0
    mark = docker_registry.log_size()
    assert inlay(*build).code == 0
    requests = docker_registry.requests(mark)
    assert len(requests) == 2, requests
    assert requests[-1] == "HEAD /v2/unchanged/manifests/1"


def test_an_imported_build_asks_each_question_once(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/asked-once:1"
    build = ("build", "--push", "--cache-to", "type=inline", "-t", ref, str(context))
    assert inlay(*build, "--root", str(tmp_path / "a")).code == 0
    mark = docker_registry.log_size()
    done = inlay(*build, "--root", str(tmp_path / "b"), "--cache-from", ref)
    assert done.code == 0, done.err
    assert " 0 run · " in done.err.splitlines()[-1]
    requests = docker_registry.requests(mark)
    layers = len(config_of(docker_registry.host, "asked-once", "1")[1]["layers"])
    assert len(requests) == len(set(requests)) == 4 + layers, requests  # two manifests, two configs
    assert sum(line.startswith("HEAD /v2/asked-once/blobs/") for line in requests) == layers


def test_a_build_loads_little_and_an_unchanged_one_nothing_that_steps_need(
    context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    build = [
        "build",
        "-q",
        "--root",
        str(tmp_path / "s"),
        "--push",
        "-t",
        f"{docker_registry.host}/lean:1",
        str(context),
    ]
    code = (
        "import sys; bare = set(sys.modules); from inlay.cli import run; "
        "assert run(sys.argv[1:]) == 0; print(*(set(sys.modules) - bare))"
    )
    of_ctypes = set(  # threading, in Python 3.14
        subprocess.run(
            [sys.executable, "-c", "import sys, ctypes; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    )
    for unchanged in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", code, *build], capture_output=True, text=True, check=True
        )
        loaded = set(done.stdout.split())
        for name in (
            "actions.files.op",
            "archive.packing",
            "executor.choose",
            "export.shipping",
            "system.linux",
        ):
            assert (f"inlay.{name}" in loaded) != unchanged, name
        heavy = {
            "argparse",
            "asyncio",
            "contextlib",
            "dataclasses",
            "datetime",
            "enum",
            "hashlib",
            "http.client",
            "json",
            "re",
            "ssl",
            "subprocess",
            "threading",
            "typing",
        }
        only_for_steps = {"ctypes", "isal", "_hashlib"}
        assert not loaded & (heavy | only_for_steps if unchanged else heavy - of_ctypes)


def test_a_build_draws_no_warning_of_python(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/warned:1"
    build = ("build", "--push", "--cache-to", "type=inline", "-t", ref, "--cache-from", ref, str(context))
    strict = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
    for store, ran in (("a", "6 run"), ("b", "0 run"), ("b", "0 run")):
        done = inlay(*build, "--root", str(tmp_path / store), env=strict)
        assert done.code == 0, done.err
        assert f" {ran} · " in done.err.splitlines()[-1]
        assert "Warning" not in done.err
        assert "Traceback" not in done.err


def test_a_damaged_config_of_a_base_image_is_fetched_again(
    inlay: Callable[..., Any], context: Path, base: str, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    repository, _, tag = base.removeprefix(f"{docker_registry.host}/").partition(":")
    config = config_of(docker_registry.host, repository, tag or "latest")[1]["config"]["digest"]
    build = ("build", "--root", str(tmp_path / "s"), "-t", "app", str(context))
    assert inlay(*build).code == 0
    kept = tmp_path / "s/blobs" / config.replace(":", "/")
    whole = kept.read_bytes()
    kept.write_bytes(bytes(len(whole)))
    again = inlay(*build)
    assert again.code == 0, again.err
    assert kept.read_bytes() == whole


def test_equal_layers_keep_their_times_and_the_image_its_digest(
    inlay: Callable[..., Any], context: Path, base: str, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(f"FROM {base}\nRUN true\nRUN sleep 0.01\nRUN true && true\n")
    layout = tmp_path / "layout"
    build = ("build", "--progress", "plain", "--cache-to", "type=inline")
    out = f"type=oci,dest={layout},tar=false,name=app"
    first = inlay(*build, "--root", str(tmp_path / "1"), "-o", out, str(context))
    again = (
        "--cache-from",
        f"type=oci-layout,src={layout}",
        "-o",
        f"type=oci,dest={tmp_path}/again,tar=false",
    )
    second = inlay(*build, "--root", str(tmp_path / "2"), *again, str(context))
    assert second.cached == 3, second.err
    assert first.err.splitlines()[-1].split(" · ")[0] == second.err.splitlines()[-1].split(" · ")[0]


def test_asked_for_no_cache_the_config_holds_none(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    done = inlay(
        "build",
        "--root",
        str(tmp_path / "s"),
        "-t",
        f"{docker_registry.host}/plain:1",
        "--push",
        str(context),
    )
    assert done.code == 0, done.err
    config = config_of(docker_registry.host, "plain", "1")[2]
    assert not [name for name in config if "cache" in name]


def test_a_changed_file_runs_what_depends_on_it_and_nothing_else(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    build = ("build", "--progress", "plain", "--root", str(tmp_path / "s"), "-t", "app", str(context))
    assert inlay(*build).code == 0
    unchanged = inlay(*build)
    assert unchanged.cached == 6, unchanged.err
    (context / "main.c").write_text("changed\n")
    changed = inlay(*build)
    assert changed.cached == 5, changed.err
    assert re.search(r"^#(\d+) \[stage-1 4/4\] COPY main.c /app/\n#\1 DONE", changed.err, re.M), changed.err


def test_independent_tools_accept_the_image(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/tools:1"
    store = tmp_path / "s"
    assert inlay("build", "--root", str(store), "-t", ref, "--push", str(context)).code == 0
    assert inlay("build", "--root", str(store), "-t", "local-name", str(context)).code == 0
    for tool in ("skopeo", "umoci"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    listed = json.loads((store / "index.json").read_text())["manifests"]
    tag = listed[0]["annotations"]["org.opencontainers.image.ref.name"]
    inspected = subprocess.run(
        ["skopeo", "inspect", f"oci:{store}:{tag}"], capture_output=True, text=True, check=True
    )
    assert len(json.loads(inspected.stdout)["Layers"]) == 4
    layout, archive = tmp_path / "layout", tmp_path / "docker.tar"
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{ref}"]
    subprocess.run([*copy, f"oci:{layout}:x"], check=True)
    subprocess.run([*copy, f"docker-archive:{archive}:x:1"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:x", str(tmp_path / "bundle")], check=True)
    assert (tmp_path / "bundle/rootfs/app/out.txt").read_text() == "hi\nbuilt\n"
    assert "manifest.json" in names_in(archive)


def test_an_oci_layout_serves_as_registry_and_as_cache(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    for kind, dest in (("tar=false", tmp_path / "folder"), ("tar=true", tmp_path / "image.tar")):
        out = f"type=oci,dest={dest},{kind},name=app:1"
        build = ("build", "--progress", "plain", "--cache-to", "type=inline", "-o", out)
        first = inlay(*build, "--root", str(tmp_path / f"1{kind}"), str(context))
        assert first.code == 0, first.err
        second = inlay(
            *build,
            "--root",
            str(tmp_path / f"2{kind}"),
            "--cache-from",
            f"type=oci-layout,src={dest}",
            str(context),
        )
        assert second.code == 0, second.err
        assert second.cached == 6, second.err
        assert first.err.splitlines()[-1].split(" · ")[0] == second.err.splitlines()[-1].split(" · ")[0]


def test_files_come_out_as_a_folder_and_as_a_tar(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /x\nCOPY main.c /\n")
    store = str(tmp_path / "s")
    done = inlay("build", "--root", store, "-o", str(tmp_path / "out"), str(context))
    assert done.code == 0, done.err
    assert (tmp_path / "out/x/a.txt").read_text() == "hi\n"
    assert inlay("build", "--root", store, "-o", f"type=tar,dest={tmp_path}/o.tar", str(context)).code == 0
    assert sorted(names_in(tmp_path / "o.tar")) == ["main.c", "x", "x/a.txt"]


def test_a_tag_in_the_store_is_found_by_from_and_by_cache_from(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "s")
    assert inlay("build", "--root", store, "-t", "first", str(context)).code == 0
    (context / "Dockerfile").write_text("FROM first\nRUN cat /app/out.txt > /again\n")
    done = inlay("build", "--root", store, "-t", "second", str(context))
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("dockerfile", "said"),
    [
        ("FROM @BASE@\nRUN exit 7\n", "Dockerfile:2"),
        ("FROM @BASE@\nCOPY missing /\n", "missing"),
        ("FROM @BASE@\nCOPY --from=bild a b\n", "bild"),
        ("FORM x\n", "unknown instruction: FORM"),
        ("FROM @HOST@/nothing:1\n", "nothing:1"),
    ],
)
def test_what_is_wrong_is_named_and_the_exit_code_is_not_zero(
    inlay: Callable[..., Any],
    context: Path,
    base: str,
    docker_registry: RunningRegistry,
    tmp_path: Path,
    dockerfile: str,
    said: str,
) -> None:
    text = dockerfile.replace("@BASE@", base).replace("@HOST@", docker_registry.host)
    (context / "Dockerfile").write_text(text)
    done = inlay("build", "--root", str(tmp_path / "s"), "-t", "never", str(context))
    assert done.code == 1, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "s/index.json").exists()


@pytest.mark.parametrize(
    "field",
    [
        "not base64!",
        base64.b64encode(b"not json").decode(),
        base64.b64encode(b'[{"digest":"sha256:' + b"0" * 64 + b'","inputs":[[{"link":9}]]}]').decode(),
        base64.b64encode(b'[{"digest":"sha256:' + b"0" * 64 + b'","inputs":[[{"link":0}]]}]').decode(),
        17,
    ],
)
def test_a_broken_cache_is_a_warning_and_the_build_goes_on(
    inlay: Callable[..., Any], context: Path, tmp_path: Path, field: object
) -> None:
    layout = tmp_path / "layout"
    build = ("build", "--progress", "plain", "--cache-to", "type=inline")
    out = f"type=oci,dest={layout},tar=false,name=app"
    assert inlay(*build, "--root", str(tmp_path / "1"), "-o", out, str(context)).code == 0
    _replace_field(layout, field)
    done = inlay(
        *build,
        "--root",
        str(tmp_path / "2"),
        "--cache-from",
        f"type=oci-layout,src={layout}",
        "-t",
        "x",
        str(context),
    )
    assert done.code == 0, done.err
    assert len(re.findall(rf"WARN: cache {layout} is not used: \S", done.err)) == 1
    assert done.cached == 0


def _replace_field(layout: Path, field: object) -> None:
    """Put `field` where the inline cache of the only image of `layout` is."""
    import hashlib

    def put(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return f"sha256:{digest}"

    def load(digest: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
        return loaded

    index = json.loads((layout / "index.json").read_text())
    manifest = load(index["manifests"][0]["digest"])
    config = load(manifest["config"]["digest"])
    config["moby.buildkit.cache.v0"] = field
    raw = json.dumps(config).encode()
    manifest["config"].update(digest=put(raw), size=len(raw))
    raw = json.dumps(manifest).encode()
    index["manifests"][0].update(digest=put(raw), size=len(raw))
    (layout / "index.json").write_text(json.dumps(index))


def test_a_missing_cache_and_an_unreachable_one_are_warnings(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    done = inlay(
        "build",
        "--root",
        str(tmp_path / "s"),
        "--progress",
        "plain",
        "--cache-from",
        f"{docker_registry.host}/no/such:1",
        "-t",
        "x",
        str(context),
    )
    assert done.code == 0, done.err
    assert done.err.count("WARN: cache") == 1


def test_a_mirror_has_the_base_image_of_a_registry_that_cannot_be_reached(
    inlay: Callable[..., Any], base: str, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM registry.invalid/base:1\nRUN true\n")
    flags = ("--registry-mirror", f"registry.invalid={docker_registry.host}")
    done = inlay("build", "--root", str(tmp_path / "s"), *flags, "-o", str(tmp_path / "out"), str(tmp_path))
    assert done.code == 0, done.err
    assert (tmp_path / "out/bin/busybox").exists()
