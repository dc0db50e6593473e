"""Whether a program cannot be executed is told from its files as the kernel would tell it."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from inlay.executor.binfmt import program
from inlay.executor.executable import exec_errno
from inlay.executor.executor import Bind, ProcessSpec, Tmpfs
from inlay.platform import host

if TYPE_CHECKING:
    from pathlib import Path


def put(path: Path, content: bytes, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def told(spec: ProcessSpec, path: str) -> int:
    return exec_errno(spec._replace(args=(path,)))


@pytest.fixture
def spec(tmp_path: Path) -> ProcessSpec:
    put(tmp_path / "root/bin/true", program(host().architecture))
    return ProcessSpec(("/bin/true",), str(tmp_path / "root"))


def test_a_program_that_is_there_can_be_executed(spec: ProcessSpec, tmp_path: Path) -> None:
    put(tmp_path / "root/script", b"#! /bin/true -x\n")
    (tmp_path / "root/link").symlink_to("/script")
    assert [told(spec, path) for path in ("/bin/true", "./bin/true", "/script", "/link")] == [0] * 4


def test_a_loader_is_looked_for_in_the_root(spec: ProcessSpec, tmp_path: Path) -> None:
    dynamic = os.path.realpath("/bin/ls")
    with open(dynamic, "rb") as file:
        put(tmp_path / "root/dynamic", file.read())
    assert told(spec, "/dynamic") == errno.ENOENT
    assert told(spec._replace(rootfs="/"), dynamic) == 0


@pytest.mark.parametrize("content", [b"", b"echo\n", b"#!\n", b"\x7fELF", program(host().architecture)[:30]])
def test_what_no_kernel_executes_is_of_a_wrong_format(
    spec: ProcessSpec, tmp_path: Path, content: bytes
) -> None:
    put(tmp_path / "root/file", content)
    assert told(spec, "/file") == errno.ENOEXEC


def test_who_may_not_execute_it_is_refused(spec: ProcessSpec, tmp_path: Path) -> None:
    put(tmp_path / "root/own", program(host().architecture), 0o700)
    put(tmp_path / "root/none", program(host().architecture), 0o644)
    owner = os.stat(tmp_path / "root/own").st_uid
    assert told(spec._replace(uid=owner), "/own") == 0
    assert told(spec._replace(uid=4321, gid=4321), "/own") == errno.EACCES
    assert told(spec._replace(uid=owner), "/none") == told(spec, "/bin") == errno.EACCES


def test_what_is_no_file_is_not_opened(spec: ProcessSpec, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root/pipe", 0o755)
    put(tmp_path / "root/script", b"#!/pipe\n")
    writer = threading.Thread(target=lambda: os.close(os.open(tmp_path / "root/pipe", os.O_WRONLY)))
    writer.start()  # and waits for a reader
    assert told(spec, "/script") == told(spec, "/pipe") == errno.EACCES
    writer.join(0.2)
    assert writer.is_alive()
    os.close(os.open(tmp_path / "root/pipe", os.O_RDONLY))
    writer.join()


def test_scripts_that_interpret_each_other_show_no_reason(spec: ProcessSpec, tmp_path: Path) -> None:
    put(tmp_path / "root/again", b"#!/again\n")
    assert told(spec, "/again") == 0


def test_mounts_cover_the_root(spec: ProcessSpec, tmp_path: Path) -> None:
    put(tmp_path / "tools/run", b"#!/bin/true\n")
    mounted = spec._replace(mounts=(Bind("/opt", str(tmp_path), "tools"), Tmpfs("/bin")))
    assert told(mounted, "/bin/true") == errno.ENOENT
    assert told(mounted, "/opt/run") == errno.ENOENT
    assert told(mounted._replace(mounts=mounted.mounts[:1]), "/opt/run") == 0
    one_file = Bind("/one", str(tmp_path / "tools/run"))
    assert told(spec._replace(mounts=(one_file,)), "/one") == 0


def test_a_program_is_looked_for_as_runtimes_look_for_it(spec: ProcessSpec, tmp_path: Path) -> None:
    put(tmp_path / "root/first/app", b"#!/bin/true\n", 0o644)
    put(tmp_path / "root/second/app", b"#!/no/such\n")
    put(tmp_path / "root/third/app", b"#!/bin/true\n")

    def found(path: str, cwd: str = "/") -> int:
        return exec_errno(spec._replace(args=("app",), env=(f"PATH={path}",), cwd=cwd))

    assert [found("/none"), found("/first"), found("/first:/second:/third")] == [
        errno.ENOENT,
        errno.EACCES,
        errno.ENOENT,
    ]
    assert [found("/first:/third:/second"), found("third/"), found(".", "/third")] == [0, 0, 0]
    assert exec_errno(spec._replace(args=("./app",), cwd="/third")) == 0
    assert exec_errno(spec._replace(args=("app",), env=())) == errno.ENOENT
