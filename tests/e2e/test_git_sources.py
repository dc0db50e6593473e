"""ADD of git repositories, as a user does it, from a real server on loopback."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RunningRegistry
    from gitserver import GitServer, Repository
    from ordinary import User

pytestmark = [pytest.mark.e2e, pytest.mark.root]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    return folder


def test_a_rebuild_fetches_nothing_and_a_new_commit_is_noticed(
    inlay: Callable[..., Any], server: GitServer, repository: Repository, context: Path, tmp_path: Path
) -> None:
    commit = repository.git("rev-parse", "HEAD")
    (context / "Dockerfile").write_text(
        f"FROM scratch\nADD {server.url}/repo.git#main /branch\nADD {server.url}/repo.git#{commit}:sub /sub\n"
        f"ADD --keep-git-dir --checksum={commit[:12]} {server.url}/repo.git /kept\n"
    )
    build = ("build", "--progress", "plain", "--root", str(tmp_path / "s"), str(context))
    first = inlay(*build, "-o", str(tmp_path / "out"))
    assert first.code == 0, first.err
    files = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert {name for name in files if "/.git/" not in name} == {
        "branch/f", "branch/sub/s", "sub/s", "kept/f", "kept/sub/s"
    }  # fmt: skip
    assert "kept/.git/HEAD" in files
    server.requests.clear()
    again = inlay(*build)
    assert again.cached == 3, again.err
    assert set(server.requests) == {"GET /repo.git/info/refs", "POST /repo.git/git-upload-pack"}
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {server.url}/repo.git#main /branch\n")
    repository.commit(f="two\n")
    changed = inlay(*build, "-o", str(tmp_path / "changed"))
    assert changed.cached == 0, changed.err
    assert (tmp_path / "changed/branch/f").read_text() == "two\n"


def test_a_fresh_machine_finds_checkouts_in_the_image(
    inlay: Callable[..., Any],
    server: GitServer,
    repository: Repository,
    context: Path,
    docker_registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    url = f"{server.url}/repo.git"
    (context / "Dockerfile").write_text(
        f"FROM scratch\nADD {url}#main /a\nADD --keep-git-dir {url}#main /b\nCOPY --from=g sub /c\n"
    )
    ref = f"{docker_registry.host}/checkouts:1"
    build = ("build", "--progress", "plain", "--cache-to", "type=inline", "--push", "-t", ref)
    named = ("--build-context", f"g={url}#refs/heads/main")
    first = inlay(*build, *named, "--root", str(tmp_path / "1"), str(context))
    assert first.code == 0, first.err
    second = inlay(*build, *named, "--root", str(tmp_path / "2"), "--cache-from", ref, str(context))
    assert second.cached == 3, second.err
    assert not list((tmp_path / "2").glob("git/*"))
    assert first.err.splitlines()[-1].split(" · ")[0] == second.err.splitlines()[-1].split(" · ")[0]


def test_a_token_opens_a_private_repository_and_is_left_nowhere(
    inlay: Callable[..., Any], server: GitServer, repository: Repository, context: Path, tmp_path: Path
) -> None:
    server.password = "Basic " + base64.b64encode(b"x-access-token:s3cr3t-t0ken").decode()
    (context / "Dockerfile").write_text(f"FROM scratch\nADD --keep-git-dir {server.url}/repo.git /r\n")
    build = ("build", "--progress", "plain", "--root", str(tmp_path / "s"), "-o", str(tmp_path / "out"))
    refused = inlay(*build, str(context))
    assert refused.code == 1
    assert "--secret id=GIT_AUTH_TOKEN" in refused.err
    secret = ("--secret", "id=GIT_AUTH_TOKEN,env=TOKEN")
    done = inlay(*build, *secret, str(context), env={"TOKEN": "s3cr3t-t0ken"})
    assert done.code == 0, done.err
    places = [*(tmp_path / "s").rglob("*"), *(tmp_path / "out").rglob("*")]
    kept = [path.read_bytes() for path in places if path.is_file()] + [done.err.encode()]
    secrets = (b"s3cr3t-t0ken", base64.b64encode(b"x-access-token:s3cr3t-t0ken"))
    assert not [data for data in kept for each in secrets if each in data]


def test_ssh_is_given_the_agents_keys_and_nothing_of_the_users(
    inlay: Callable[..., Any], server: GitServer, repository: Repository, context: Path, tmp_path: Path
) -> None:
    """`ssh` is replaced by a script that notes how it was called and serves the repository."""
    if shutil.which("ssh-agent") is None or shutil.which("ssh") is None:
        pytest.skip("openssh-client is not installed")
    key, note, programs = tmp_path / "key", tmp_path / "note", tmp_path / "bin"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    programs.mkdir()
    (programs / "ssh").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {note}\nssh-add -L >> {note}\n'
        f'{shutil.which("ssh")} -G "$@" >> {note} || exit 1\n'
        f"exec git-upload-pack {repository.bare}\n"
    )
    (programs / "ssh").chmod(0o755)
    (context / "Dockerfile").write_text("FROM scratch\nADD git@127.0.0.1:repo.git#main /r\n")
    build = ("build", "--root", str(tmp_path / "s"), "-o", str(tmp_path / "out"), str(context))
    path = subprocess.run(
        ["sh", "-c", "echo $PATH"], capture_output=True, text=True, check=True
    ).stdout.strip()
    env = {"PATH": f"{programs}:{path}:{subprocess.getoutput('git --exec-path')}"}
    without = inlay(*build, env=env)
    assert without.code == 1
    assert "--ssh default" in without.err
    done = inlay(*build, "--ssh", f"default={key}", env=env)
    assert done.code == 0, done.err
    assert (tmp_path / "out/r/f").read_text() == "one\n"
    said = note.read_text()
    assert key.with_suffix(".pub").read_text().split()[1] in said
    settings = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    assert settings["batchmode"] == "yes"
    assert settings["stricthostkeychecking"] == "accept-new"
    assert settings["identityfile"] == "none"


def test_an_error_names_the_remote_and_the_step(
    inlay: Callable[..., Any], server: GitServer, repository: Repository, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {server.url}/repo.git#nowhere /r\n")
    done = inlay("build", "--root", str(tmp_path / "s"), str(context))
    assert done.code == 1
    assert "ADD" in done.err
    assert "/repo.git#nowhere: the repository has no ref nowhere" in done.err


def test_a_killed_fetch_is_in_nobodys_way(
    inlay: Callable[..., Any], server: GitServer, repository: Repository, context: Path, tmp_path: Path
) -> None:
    store, commit = tmp_path / "s", repository.git("rev-parse", "HEAD")
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {server.url}/repo.git#{commit} /r\n")
    server.gate.clear()
    command = [sys.executable, "-m", "inlay", "build", "--root", str(store), str(context)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        while not server.requests:
            time.sleep(0.01)
        killed.kill()
    threading.Timer(1, server.gate.set).start()
    done = inlay("build", "--root", str(store), "-o", str(tmp_path / "out"), str(context))
    assert done.code == 0, done.err
    assert (tmp_path / "out/r/f").read_text() == "one\n"
    assert not list((store / "snapshots/new").iterdir())


@pytest.mark.parametrize("protocol", ["git", "http", "ssh"])
@pytest.mark.parametrize("who", ["root", "user"])
def test_git_ends_with_a_build_that_is_killed(
    users: Callable[..., User], context: Path, tmp_path: Path, protocol: str, who: str
) -> None:
    if protocol == "ssh" and shutil.which("ssh") is None:
        pytest.skip("openssh-client is not installed")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (context / "Dockerfile").write_text(f"FROM scratch\nADD {protocol}://127.0.0.1:{port}/r.git /r\n")
        build = [sys.executable, "-m", "inlay", "build", "--root"]
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        if who == "user":
            user = users()
            build = [*user.command(*build), str(user.home / "s"), str(user.give(context))]
            key = user.give(key)
        else:
            build += [str(tmp_path / "s"), str(context)]
        process = subprocess.Popen([*build, "--ssh", f"default={key}"], stderr=subprocess.DEVNULL, cwd="/")
        with silent.accept()[0]:
            assert processes_for(port)
            process.kill()
            process.wait(20)
            end = time.monotonic() + 10
            while left := processes_for(port):
                assert time.monotonic() < end, left
                time.sleep(0.02)


def processes_for(port: int) -> list[str]:
    """The processes whose environment names a remote at `port`: git and what it started."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f":{port}/r.git".encode() in file.read():
                    found.append(f"{pid} {Path(f'/proc/{pid}/comm').read_text()}")
        except OSError:
            continue
    return found
