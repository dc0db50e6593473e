"""Secrets stay secret: their bytes are looked for in everything that a build leaves, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
from images import files_with

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunningRegistry

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

FILE_SECRET, VARIABLE_SECRET = b"f1le-s3cret-31415", b"v4r-s3cret-92653"
USES = (
    "RUN --mount=type=secret,id=file --mount=type=secret,id=var,env=TOKEN --mount=type=secret,id=var,target=/t "
    "--mount=type=ssh,id=keys --mount=type=cache,target=/cache "
    'wc -c /run/secrets/file /t && test -n "$TOKEN" && test -S $SSH_AUTH_SOCK && echo read them && '
)


class Surroundings(NamedTuple):
    """Where a build can leave something: its store, its temporary files, what it prints and writes."""

    folder: Path
    command: list[str]
    environment: dict[str, str]
    private_key: bytes
    host: str

    def start(self, dockerfile: str, *flags: str) -> subprocess.Popen[bytes]:
        (self.folder / "context/Dockerfile").write_text(dockerfile)
        with open(self.folder / "left/output", "ab") as output:
            return subprocess.Popen(
                [*self.command, *flags, str(self.folder / "context")],
                stdout=output,
                stderr=output,
                env=self.environment,
            )

    @property
    def output(self) -> str:
        return (self.folder / "left/output").read_text()

    def traces(self, *, without: tuple[str, ...] = ()) -> list[str]:
        """The files of all that is left which hold a secret, but those named `without`."""
        secrets = (FILE_SECRET, VARIABLE_SECRET, self.private_key)
        found = [path for secret in secrets for path in files_with(self.folder / "left", secret)]
        return [path for path in found if os.path.basename(path) not in without]


@pytest.fixture(params=["crun", "runc", "builtin"])
def around(
    request: pytest.FixtureRequest, base: str, docker_registry: RunningRegistry, tmp_path: Path
) -> Surroundings:
    if request.param != "builtin" and not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    left = tmp_path / "left"
    for folder in (tmp_path / "context", tmp_path / "given", left, left / "tmp"):
        folder.mkdir()
    key = tmp_path / "given/key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (tmp_path / "given/secret").write_bytes(FILE_SECRET)
    environment = {**os.environ, "TMPDIR": str(left / "tmp"), "THE_SECRET": VARIABLE_SECRET.decode()}
    options = {
        "--root": str(left / "store"),
        "--runtime": request.param,
        "--progress": "plain",
        "--secret": f"id=file,src={tmp_path}/given/secret",
        "--ssh": f"keys={key}",
        "--metadata-file": str(left / "metadata.json"),
    }
    flags = [part for pair in options.items() for part in pair] + ["--secret", "id=var,env=THE_SECRET"]
    command = [sys.executable, "-m", "inlay", "build", *flags]
    return Surroundings(
        tmp_path, command, environment, key.read_bytes().splitlines()[4], docker_registry.host
    )


def test_nothing_of_a_secret_is_left_in_images_caches_and_state(around: Surroundings, base: str) -> None:
    name = f"{around.host}/secrets:{os.path.basename(around.folder)}"
    dockerfile = f"FROM {base}\n{USES} echo made > /made\n"
    outputs = (
        "-o",
        f"type=image,name={name},push=true",
        "-o",
        f"type=oci,tar=false,dest={around.folder}/left/image",
    )
    caches = (
        "type=inline",
        f"type=local,dest={around.folder}/left/cache,mode=max",
        f"type=registry,ref={name}-cache,mode=max",
    )
    flags = [*outputs, *(part for cache in caches for part in ("--cache-to", cache))]
    assert around.start(dockerfile, *flags).wait(120) == 0, around.output
    assert " read them\n" in around.output
    assert around.traces() == []
    shown = subprocess.run(
        ["skopeo", "inspect", "--raw", "--config", "--tls-verify=false", f"docker://{name}"],
        capture_output=True,
        check=True,
    )
    assert b"THE_SECRET" not in shown.stdout
    assert b"echo read them" in shown.stdout  # the history tells of the step


def test_another_value_of_a_secret_changes_no_key(around: Surroundings, base: str) -> None:
    dockerfile = f"FROM {base}\n{USES} echo made > /made\n"
    assert around.start(dockerfile).wait(120) == 0, around.output
    (around.folder / "given/secret").write_bytes(b"other")
    around.environment["THE_SECRET"] = "other"
    assert around.start(dockerfile).wait(120) == 0, around.output
    assert around.output.count(" CACHED\n") == 1


@pytest.mark.parametrize("progress", ["plain", "rawjson"])
def test_nothing_of_a_secret_is_left_by_a_failed_build(
    around: Surroundings, base: str, progress: str
) -> None:
    failing = f"FROM {base}\n{USES} echo x > /cache/x && exit 3\n"
    assert around.start(failing, "--progress", progress).wait(120) == 1
    assert "exit code: 3" in around.output
    not_a_program = USES.partition("wc -c")[0]
    assert around.start(f'FROM {base}\n{not_a_program} ["/no/such/program"]\n').wait(120) == 1
    assert "executable file not found" in around.output
    assert around.traces() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_of_a_secret_is_left_by_a_stopped_build(
    around: Surroundings, base: str, how: signal.Signals
) -> None:
    process = around.start(f"FROM {base}\n{USES} sleep 1000\n")
    while " read them\n" not in around.output:
        assert process.poll() is None, around.output
    process.send_signal(how)
    process.wait(20)
    assert around.traces() == []
    assert around.start(f"FROM {base}\nRUN true\n").wait(120) == 0
    assert around.traces() == []


def test_what_a_step_itself_keeps_is_found(around: Surroundings, base: str) -> None:
    """The other tests look in the right places: a secret that a Dockerfile copies is there."""
    leaking = f"FROM {base}\n{USES} cp /run/secrets/file /kept && echo $TOKEN > /cache/kept\n"
    assert around.start(leaking, "-o", f"type=oci,tar=false,dest={around.folder}/left/image").wait(120) == 0
    assert len(around.traces()) >= 3  # a blob in the image, a file in the store, one in the cache mount
