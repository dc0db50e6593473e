"""executor.binfmt: which programs run here, from registrations and by trying."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from inlay.executor.binfmt import (
    MACHINES,
    Registration,
    architecture_of,
    program,
    registrations,
    runs_here,
    why_not_runnable,
)
from inlay.platform import Platform, host, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AMD64 = Platform("linux", "amd64")
AARCH64 = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def reason(
    platform: str, *known: Registration | None, root: str = "", runs: Callable[[str], bool] = lambda _: False
) -> str:
    listed = [each for each in known if each is not None]
    return why_not_runnable(parse(platform), listed, lambda path: path == root, here=AMD64, runs=runs)


def test_what_the_kernel_shows_of_a_registration_is_read() -> None:
    registration = Registration.parse(AARCH64)
    assert registration is not None
    assert (registration.interpreter, registration.flags) == (
        "/usr/libexec/qemu-binfmt/aarch64-binfmt-P",
        "POF",
    )
    assert [name for name in MACHINES if registration.fits(program(name))] == ["arm64"]


@pytest.mark.parametrize(
    "text", ["", "disabled\n" + AARCH64, "enabled\nextension .py\n", "enabled\nmagic xy\n"]
)
def test_what_is_no_registration_in_force_is_left_out(text: str) -> None:
    assert Registration.parse(text) is None


def test_registrations_are_all_that_is_enabled(tmp_path: Path) -> None:
    assert registrations(str(tmp_path / "missing")) == []
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "register").write_text("")
    (tmp_path / "qemu-aarch64").write_text(AARCH64)
    (tmp_path / "python").write_text("enabled\ninterpreter /usr/bin/python\nflags: \nextension .pyc\n")
    assert len(registrations(str(tmp_path))) == 1
    (tmp_path / "status").write_text("disabled\n")
    assert registrations(str(tmp_path)) == []


def test_what_is_registered_runs() -> None:
    registration = Registration.parse(AARCH64)
    assert reason("linux/arm64", registration) == ""
    assert reason("linux/amd64") == reason("linux/amd64/v3") == ""
    assert "for linux/riscv64" in reason("linux/riscv64", registration)


def test_without_the_flag_that_opens_it_at_once_the_interpreter_must_be_in_the_image() -> None:
    registration = Registration.parse(AARCH64.replace("POF", "PO"))
    assert registration is not None
    assert "without the flag F" in reason("linux/arm64", registration)
    assert "qemu-user-static" in reason("linux/arm64", registration)
    assert reason("linux/arm64", registration, root=registration.interpreter) == ""


def test_what_runs_when_it_is_tried_runs() -> None:
    assert reason("linux/386", runs=lambda architecture: architecture == "386") == ""


def test_what_does_not_run_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = reason("linux/arm/v7")
    assert "this machine (linux/amd64) cannot run programs for linux/arm/v7" in said
    assert "install the Debian packages qemu-user-static and binfmt-support" in said
    assert "--platform=$BUILDPLATFORM" in said
    (tmp_path / "qemu-arm-static").write_text("#!/bin/sh\n")
    (tmp_path / "qemu-arm-static").chmod(0o755)
    assert "update-binfmts --enable qemu-arm" in reason("linux/arm/v7")


def test_other_systems_and_unknown_processors_have_no_way() -> None:
    assert "cannot be run on Linux" in reason("windows/amd64")
    assert "nor is an emulator known" in reason("linux/sparc64")


def test_programs_are_told_by_their_headers() -> None:
    assert [architecture_of(program(name)) for name in MACHINES] == list(MACHINES)
    assert architecture_of(b"#!/bin/sh\n" + bytes(60)) == architecture_of(b"\x7fELF") == ""


def test_trying_tells_that_this_machine_runs_its_own_programs() -> None:
    assert runs_here(host().architecture)
    assert not runs_here("unheard-of")


@pytest.mark.parametrize("architecture", MACHINES)
def test_each_program_ends_well_under_qemu(architecture: str, tmp_path: Path) -> None:
    name = f"qemu-{MACHINES[architecture].qemu}"
    qemu = shutil.which(f"{name}-static") or shutil.which(name)
    if qemu is None:
        pytest.skip("qemu-user-static is not installed")
    path = tmp_path / "program"
    path.write_bytes(program(architecture))
    os.chmod(path, 0o755)
    subprocess.run([qemu, str(path)], check=True, timeout=20)
