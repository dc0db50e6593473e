"""Builds with a registry that wants a name and a password: given as docker's users give them, left nowhere."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from images import files_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry
    from ordinary import User
    from running import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.root]

USER, PASSWORD = "builder", "s3cret-word"  # the registry's
AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
HELPER = f"""#!/bin/sh
test "$1" = get && test "$(cat)" = @HOST@ && test "$(id -u)" = @UID@ || exit 1
printf '{{"Username":"{USER}","Secret":"{PASSWORD}"}}'
"""


class Desk:
    """Where somebody, root or an ordinary user, builds; `home` is what belongs to them."""

    def __init__(self, run: Callable[..., Outcome], home: Path, uid: int) -> None:
        self.run, self.home, self.uid = run, home, uid
        self.output = ""

    def build(self, dockerfile: str, *flags: str, store: str = "store", **env: str) -> Outcome:
        context = self.home / "context"
        context.mkdir(exist_ok=True)
        context.chmod(0o755)
        (context / "Dockerfile").write_text(dockerfile)
        folder = self.home / store
        done = self.run("build", "--progress", "plain", "--root", str(folder), *flags, str(context), env=env)
        self.output += done.out + done.err
        return done

    def config(self, **fields: object) -> str:
        folder = self.home / "docker"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(fields))
        return str(folder)

    def traces(self) -> list[str]:
        secrets = [PASSWORD.encode(), AUTH.encode()]
        found = [path for each in secrets for path in files_with(self.home / "store", each)]
        return [*found, *(text for text in (PASSWORD, AUTH) if text in self.output)]


@pytest.fixture(params=["root", "user"])
def desk(request: pytest.FixtureRequest, inlay: Callable[..., Any], tmp_path: Path) -> Desk:
    if request.param == "root":
        return Desk(inlay, tmp_path, 0)
    user: User = request.getfixturevalue("users")()
    return Desk(user.inlay, user.home, 4711)


@pytest.fixture
def private(guarded_registry: RunningRegistry, inlay: Callable[..., Any], tmp_path: Path) -> str:
    """An image in the registry that lets only `USER` in."""
    name = f"{guarded_registry.host}/private:{tmp_path.name.replace('[', '-').replace(']', '').lower()}"
    assert (guarded_registry.user, guarded_registry.password) == (USER, PASSWORD)
    owner = Desk(inlay, tmp_path / "owner", 0)
    owner.home.mkdir()
    auths = {guarded_registry.host: {"auth": AUTH}}
    flags = ("-t", name, "--push", "--cache-to", "type=inline")
    done = owner.build("FROM scratch\nCOPY Dockerfile /a\n", *flags, DOCKER_CONFIG=owner.config(auths=auths))
    assert done.code == 0, done.err
    return name


@pytest.mark.parametrize(
    ("desk", "way"),
    [("root", "file"), ("root", "helper"), ("user", "store"), ("user", "helper"), ("user", "variable")],
    indirect=["desk"],
)
def test_credentials_let_in_to_pull_push_and_import(desk: Desk, private: str, way: str) -> None:
    host = private.partition("/")[0]
    environment = {"DOCKER_CONFIG": desk.config()}
    if way == "file":
        environment["DOCKER_CONFIG"] = desk.config(auths={host: {"auth": AUTH}})
    elif way == "variable":
        environment["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {host: {"auth": AUTH}}})
    else:
        program = desk.home / "bin/docker-credential-test"
        program.parent.mkdir()
        program.write_text(HELPER.replace("@HOST@", host).replace("@UID@", str(desk.uid)))
        program.chmod(0o755)
        fields = {"credHelpers": {host: "test"}} if way == "helper" else {"credsStore": "test"}
        environment["DOCKER_CONFIG"] = desk.config(**fields)
        environment["PATH"] = f"{program.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    flags = ("-t", f"{private}-again", "--push", "--cache-to", "type=inline", "--cache-from", private)
    dockerfile = f"FROM {private}\nCOPY Dockerfile /b\n"
    done = desk.build(dockerfile, *flags, **environment)
    assert done.code == 0, done.err
    assert "WARN" not in done.err, done.err
    flags = ("-o", str(desk.home / "out"), "--cache-from", f"{private}-again")
    done = desk.build(dockerfile, *flags, store="other", **environment)
    assert done.code == 0, done.err
    assert done.cached == 1
    assert (desk.home / "out/b").read_text() == dockerfile
    assert desk.traces() == []


def test_without_credentials_and_with_wrong_ones_it_is_said_what_to_do(desk: Desk, private: str) -> None:
    host = private.partition("/")[0]
    wrong = base64.b64encode(f"{USER}:wr0ng-word".encode()).decode()
    for auths in ({}, {host: {"auth": wrong}}):
        done = desk.build(f"FROM {private}\nCOPY Dockerfile /b\n", DOCKER_CONFIG=desk.config(auths=auths))
        assert done.code == 1
        assert f"docker login {host}" in done.err
        assert "Traceback" not in done.err
        assert wrong not in done.err
        assert "wr0ng-word" not in done.err


def test_a_helper_that_is_missing_is_named_where_a_registry_refuses(desk: Desk, private: str) -> None:
    folder = desk.config(credsStore="nowhere")
    done = desk.build(f"FROM {private}\nCOPY Dockerfile /b\n", DOCKER_CONFIG=folder)
    assert done.code == 1
    assert "docker-credential-nowhere" in done.err
