"""Images for several platforms: indexes, caches, cross builds, and steps of another processor."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import own_binfmt
import pytest

from inlay.executor.binfmt import MACHINES, registrations, why_not_runnable
from inlay.layout import LayoutFolder
from inlay.oci.descriptor import OCI_INDEX
from inlay.platform import host, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RunningRegistry
    from ordinary import User

pytestmark = [pytest.mark.e2e, pytest.mark.root]

BOTH = "linux/amd64,linux/arm64"
BUILD = ("build", "--progress", "plain")
CROSS = """FROM --platform=$BUILDPLATFORM @BASE@ AS build
ARG TARGETPLATFORM TARGETARCH
COPY a.txt /
RUN echo "$TARGETPLATFORM on $(uname -m)" > /out.txt
FROM scratch
ARG TARGETARCH
COPY --from=build /out.txt /out-$TARGETARCH.txt
COPY a.txt /
LABEL arch=$TARGETARCH
"""


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(CROSS.replace("@BASE@", base))
    (folder / "a.txt").write_text("a\n")
    return folder


def inspected(ref: str, *arguments: str) -> Any:
    command = ["skopeo", "inspect", "--tls-verify=false", *arguments, f"docker://{ref}"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def foreign() -> str:
    """A platform whose programs do not run on this machine, whatever is registered."""
    for name in MACHINES:
        if why_not_runnable(parse(f"linux/{name}"), registrations(), lambda path: False):
            return f"linux/{name}"
    pytest.skip("this machine runs the programs of all processors")


def test_an_index_is_pushed_and_its_cache_serves_an_empty_machine(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/platforms"
    push = (*BUILD, "--platform", BOTH, "--push", "--cache-to", "type=inline", str(context))
    first = inlay(*push, "--root", str(tmp_path / "a"), "-t", f"{ref}:1")
    assert first.code == 0, first.err
    index = inspected(f"{ref}:1", "--raw")
    assert index["mediaType"] == OCI_INDEX
    assert [each["platform"] for each in index["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
    ]
    for each in index["manifests"]:
        config = inspected(f"{ref}@{each['digest']}", "--config", "--raw")
        architecture = each["platform"]["architecture"]
        assert config["architecture"] == config["config"]["Labels"]["arch"] == architecture
        assert config["moby.buildkit.cache.v0"]

    mark = docker_registry.log_size()
    second = inlay(*push, "--root", str(tmp_path / "b"), "-t", f"{ref}:2", "--cache-from", f"{ref}:1")
    assert second.code == 0, second.err
    assert " 0 run · " in second.err.splitlines()[-1], second.err
    assert inspected(f"{ref}:2", "--raw") == index
    blobs = [line for line in docker_registry.requests(mark) if "/blobs/" in line and line.startswith("GET")]
    assert len(blobs) == 3  # configs: of the base, and of each platform


def test_progress_names_the_platform_of_each_step_as_buildkit_does(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    done = inlay(*BUILD, "--platform", BOTH, "--root", str(tmp_path / "s"), "-t", "x", str(context))
    steps = set(re.findall(r"^#\d+ (\[linux/[^]]*\] .*)$", done.err, re.M))
    assert len(steps) == 9, done.err
    assert done.err.count("load metadata for") == 1, done.err
    assert any(step.startswith(f"[{host()} build 3/3] RUN echo") for step in steps)
    other = "arm64" if host().architecture == "amd64" else "amd64"
    assert any(step.startswith(f"[{host()}->{other} build 3/3] RUN echo") for step in steps)
    assert "[linux/arm64 stage-1 2/2] COPY a.txt /" in steps
    one = inlay(*BUILD, "--platform", "linux/arm64", "--root", str(tmp_path / "s"), "-t", "x", str(context))
    assert "[stage-1 2/2] COPY a.txt /" in one.err


def test_cross_builds_run_on_this_machine_for_each_target(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    platforms = f"{BOTH},linux/arm/v7"
    done = inlay(
        *(*BUILD, "--platform", platforms, "--root", str(tmp_path / "s"), str(context)),
        *("-o", f"type=local,dest={out}", "-o", f"type=tar,dest={tmp_path}/out.tar"),
    )
    assert done.code == 0, done.err
    machine = os.uname().machine
    assert (out / "linux_arm64/out-arm64.txt").read_text() == f"linux/arm64 on {machine}\n"
    assert (out / "linux_arm_v7/out-arm.txt").read_text() == f"linux/arm/v7 on {machine}\n"
    with tarfile.open(tmp_path / "out.tar") as tar:
        written = {member.name for member in tar}
    assert written == {str(path.relative_to(out)) for path in out.rglob("*")}


@pytest.mark.parametrize("tar", ["true", "false"])
def test_an_index_is_written_as_a_layout_and_read_again(
    inlay: Callable[..., Any], context: Path, tmp_path: Path, tar: str
) -> None:
    dest = tmp_path / "image"
    build = (*BUILD, "--platform", BOTH, "--cache-to", "type=inline", str(context), "-o")
    out = f"type=oci,dest={dest},tar={tar},name=app:1"
    first = inlay(*build, out, "--root", str(tmp_path / "a"))
    assert first.code == 0, first.err
    source = f"oci-archive:{dest}:1" if tar == "true" else f"oci:{dest}:1"
    copied = ["skopeo", "copy", "-q", "--all", source, f"oci:{tmp_path}/copy:1"]
    subprocess.run(copied, check=True)
    second = inlay(
        *(*build, out, "--root", str(tmp_path / "b"), "--cache-from", f"type=oci-layout,src={dest}")
    )
    assert " 0 run · " in second.err.splitlines()[-1], second.err
    (context / "Dockerfile").write_text("FROM app\nARG TARGETARCH\nCOPY out-$TARGETARCH.txt /again\n")
    (context / "out-arm64.txt").write_text("x")
    named = inlay(
        *(*BUILD, "--platform", "linux/arm64", "--root", str(tmp_path / "c"), "-t", "x", str(context)),
        *("--build-context", f"app=oci-layout://{dest}"),
    )
    assert named.code == 0, named.err


def test_annotations_go_where_they_are_asked_for(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    annotations = (
        "index,index-descriptor:i=1",
        "manifest[linux/arm64]:m=2",
        "manifest-descriptor:d=3",
        "all=4",
    )
    done = inlay(
        *(*BUILD, "--platform", BOTH, "--root", str(tmp_path / "s"), str(context)),
        *("-o", f"type=oci,dest={layout},tar=false,name=app:1"),
        *(part for text in annotations for part in ("--annotation", text)),
    )
    assert done.code == 0, done.err
    listed = json.loads((layout / "index.json").read_text())["manifests"][0]
    assert listed["annotations"]["i"] == "1"
    index = json.loads(LayoutFolder(str(layout)).fetch_manifest("1").raw)
    assert index["annotations"] == {"i": "1"}
    assert [each["annotations"] for each in index["manifests"]] == [{"d": "3"}, {"d": "3"}]
    blobs = [layout / "blobs" / each["digest"].replace(":", "/") for each in index["manifests"]]
    notes = [json.loads(blob.read_text())["annotations"] for blob in blobs]
    assert notes == [{"all": "4"}, {"all": "4", "m": "2"}]
    wrong = inlay(*BUILD, "--annotation", "index:i=1", "--root", str(tmp_path / "s"), str(context))
    assert wrong.code == 2
    assert wrong.err == "inlay: --annotation i: an image of one platform has no index\n"


def test_attestations_in_an_index_are_no_platform(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    build = (*BUILD, "--platform", BOTH, "--cache-to", "type=inline", str(context))
    out = ("-o", f"type=oci,dest={layout},tar=false,name=app:1")
    assert inlay(*build, *out, "--root", str(tmp_path / "a")).code == 0
    folder = LayoutFolder(str(layout))
    index = folder.fetch_manifest("1")
    manifest = json.loads(folder.fetch_manifest(index.manifests[0].digest).raw)  # type: ignore[union-attr]
    manifest["layers"] = [{**manifest["layers"][0], "mediaType": "application/vnd.in-toto+json"}]
    attestation = folder.push_manifest(json.dumps(manifest).encode(), manifest["mediaType"])
    unknown = {**attestation.to_json(), "platform": {"architecture": "unknown", "os": "unknown"}}
    listed = [unknown, *json.loads(index.raw)["manifests"]]
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
    folder.push_manifest(raw, OCI_INDEX, "1", name="docker.io/library/app:1")

    again = inlay(
        *(*build, "--root", str(tmp_path / "b"), "-t", "x", "--cache-from", f"type=oci-layout,src={layout}")
    )
    assert " 0 run · " in again.err.splitlines()[-1], again.err
    (context / "Dockerfile").write_text("FROM app\n")
    layouts = ("--build-context", f"app=oci-layout://{layout}:1", "-t", "x", str(context))
    assert inlay(*BUILD, "--platform", BOTH, "--root", str(tmp_path / "c"), *layouts).code == 0
    missing = inlay(*BUILD, "--platform", "linux/s390x", "--root", str(tmp_path / "c"), *layouts)
    assert missing.code == 1
    assert "there are: linux/amd64, linux/arm64" in missing.err


def test_each_platform_keeps_the_layers_of_other_stages_beside_it(
    inlay: Callable[..., Any], context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    ref = f"{docker_registry.host}/platforms-beside"
    push = (*BUILD, "--platform", BOTH, "--push", "--cache-to", "type=inline,mode=max", str(context))
    first = inlay(*push, "--root", str(tmp_path / "a"), "-t", f"{ref}:1")
    assert first.code == 0, first.err
    subjects = []
    for each in inspected(f"{ref}:1", "--raw")["manifests"]:
        (cache,) = inspected(f"{ref}:{each['digest'].replace(':', '-')}", "--raw")["manifests"]
        manifest = inspected(f"{ref}@{cache['digest']}", "--raw")
        subjects.append(manifest["subject"]["digest"] == each["digest"])
    assert subjects == [True, True]
    text = (context / "Dockerfile").read_text()
    (context / "Dockerfile").write_text(
        text.replace("FROM scratch", "RUN cat /out.txt > /more\nFROM scratch")
    )
    second = inlay(*push, "--root", str(tmp_path / "b"), "-t", f"{ref}:2", "--cache-from", f"{ref}:1")
    assert second.code == 0, second.err
    assert not re.search(r"RUN echo .*\n#\d+ DONE", second.err), second.err
    assert len(set(re.findall(r"importing cache of other stages from (\S+)\n", second.err))) == 2


def test_an_image_that_is_removed_takes_what_lies_beside_each_platform_with_it(
    inlay: Callable[..., Any], context: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    build = (*BUILD, "--platform", BOTH, "--root", str(store), "--cache-to", "type=inline,mode=max")
    for name in ("x", "y"):
        assert inlay(*build, "-t", name, str(context)).code == 0
    listed = json.loads((store / "index.json").read_text())["manifests"]
    assert len(listed) == 4  # two names, and what lies beside each of the two platforms
    assert inlay("image", "rm", "--root", str(store), "x").code == 0
    assert len(json.loads((store / "index.json").read_text())["manifests"]) == 3
    assert inlay("image", "rm", "--root", str(store), "y").code == 0
    assert json.loads((store / "index.json").read_text())["manifests"] == []


def test_a_platform_without_run_needs_no_emulator_and_one_with_says_what_it_needs(
    inlay: Callable[..., Any], users: Callable[..., User], context: Path, base: str, tmp_path: Path
) -> None:
    platform, user = foreign(), users()
    for run, folder in ((inlay, context), (user.inlay, user.give(context))):
        (folder / "Dockerfile").write_text(
            'FROM scratch\nCOPY a.txt /\nWORKDIR /w\nENV A=b\nCMD ["/a.txt"]\n'
        )
        build = (*BUILD, "--platform", platform, "--root", str(folder.parent / "s"), "-t", "x", str(folder))
        assert run(*build).code == 0
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY a.txt /\nRUN true\n")
        done = run(*build)
        assert done.code == 1
        last = done.err.splitlines()[-1]
        assert last.startswith("inlay: Dockerfile:3: [2/2] RUN true: this machine")
        assert f"cannot run programs for {platform}" in last
        assert "qemu-user-static" in last


def test_an_image_of_this_machine_under_another_platform_runs(
    inlay: Callable[..., Any], context: Path, base: str, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(f"FROM {base}\nRUN uname -m > /machine\n")
    build = (*BUILD, "--platform", foreign(), "--root", str(tmp_path / "s"), "-t", "x", str(context))
    done = inlay(*build)
    assert done.code == 0, done.err


@pytest.fixture(scope="session")
def arm64_busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's static busybox for arm64."""
    folder = tmp_path_factory.mktemp("arm64")
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no apt-get to take an arm64 program from")
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State::lists": str(folder / "lists"),
        "Dir::State::status": str(folder / "status"),
        "Dir::Cache": str(folder / "cache"),
    }
    command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    try:
        subprocess.run([*command, "update"], check=True, capture_output=True, timeout=120)
        subprocess.run([*command, "download", "busybox-static"], check=True, cwd=folder, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("no arm64 packages can be had")
    (package,) = folder.glob("busybox-static_*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder / "files"], check=True)
    (busybox,) = folder.glob("files/**/bin/busybox")  # in usr/ since Debian 13
    return busybox


@pytest.mark.parametrize("runtime", ["crun", "runc", "builtin"])
@pytest.mark.parametrize("who", ["root", "user"])
def test_foreign_steps_run_through_qemu(
    inlay: Callable[..., Any], users: Callable[..., User], arm64_busybox: Path,
    docker_registry: RunningRegistry, tmp_path: Path, runtime: str, who: str,
) -> None:  # fmt: skip
    if runtime != "builtin" and shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("qemu-user-static is not installed")
    if os.uname().machine == "aarch64":
        pytest.skip("arm64 is not foreign here")
    context = tmp_path / "context"
    (context / "amd64").mkdir(parents=True)
    (context / "arm64").mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, context / "amd64/busybox")
    shutil.copy(arm64_busybox, context / "arm64/busybox")
    (context / "Dockerfile").write_text(
        "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH/busybox /bin/\n"
        'RUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
        # Named in full: else this shell runs itself by way of /proc/self/exe, which is qemu's own to qemu 7.
        "RUN /bin/uname -m > /machine && /bin/cat /machine\n"
    )
    ref = f"{docker_registry.host}/qemu/{who}-{runtime}"
    command = [sys.executable, "-m", "inlay", *BUILD, "--runtime", runtime, "--platform", BOTH]
    command += ["--push", "--cache-to", "type=inline", "-t", f"{ref}:1", "--root"]
    if who == "user":
        user = users()
        command = user.command(*command, str(user.home / "s"), str(user.give(context)))
    else:
        command += [str(tmp_path / "s"), str(context)]
    script = [sys.executable, str(Path(own_binfmt.__file__)), qemu]
    done = subprocess.run(
        [*script, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=os.environ if who == "root" else user.environment,
    )
    if done.returncode == own_binfmt.CANNOT:
        pytest.skip("this kernel has no binfmt_misc for a user namespace of its own")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^#\d+ [\d.]+ aarch64$", done.stderr, re.M), done.stderr
    # What was run there is cached here, where it could not be run.
    again = inlay(
        *(*BUILD, "--platform", BOTH, "--root", str(tmp_path / "t"), "--cache-from", f"{ref}:1"),
        *("-o", f"type=local,dest={tmp_path}/out", str(context)),
    )
    assert again.code == 0, again.err
    assert (tmp_path / "out/linux_arm64/machine").read_text() == "aarch64\n"
    assert (tmp_path / "out/linux_amd64/machine").read_text() == f"{os.uname().machine}\n"
