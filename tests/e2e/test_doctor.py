"""`inlay doctor`: what it finds, by doing, and the commands that it names."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from inlay.cli.doctor import as_text
from inlay.doctor import Finding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ordinary import User

pytestmark = [pytest.mark.e2e, pytest.mark.root]


def findings_of(done: Any) -> dict[str, dict[str, str]]:
    told = json.loads(done.out)
    assert told["works"] == (done.code == 0)
    return {each["name"]: each for each in told["findings"]}


def test_each_finding_is_a_line_and_its_command_another() -> None:
    text = as_text([Finding("kernel", "ok", "new enough"), Finding("git", "limited", "none", "apt-get x")])
    assert text == "ok  kernel  new enough\n!!  git     none\n            → apt-get x\n"


def test_root_can_do_everything(inlay: Callable[..., Any], tmp_path: Path) -> None:
    found = findings_of(inlay("doctor", "--json", "--root", str(tmp_path / "s")))
    assert {name for name, each in found.items() if each["state"] == "failed"} == set()
    assert found["privileges"]["told"].startswith("root")
    assert found["trees"]["told"] == "by overlayfs"
    runtimes = [found[name]["told"] for name in ("crun", "runc", "builtin")]
    assert sum("it is the default" in told for told in runtimes) == 1
    assert "works" in found["builtin"]["told"]
    assert os.listdir(tmp_path / "s/snapshots/new") == []


def test_a_user_with_granted_ids_can_do_everything(users: Callable[..., User]) -> None:
    found = findings_of(users().inlay("doctor", "--json"))
    assert {name for name, each in found.items() if each["state"] == "failed"} == set()
    assert found["privileges"]["told"] == "user 4711, in a user namespace"
    assert found["ids"] == {
        "name": "ids",
        "state": "ok",
        "told": "files can belong to anybody",
        "command": "",
    }
    assert found["trees"]["told"] == "by overlayfs with userxattr"


@pytest.mark.parametrize(
    ("options", "told", "command"),
    [
        ({"ids": 0}, "grant 0", "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ordinary"),
        (
            {"ids": 9},
            "to 10 ids only",
            "usermod --add-subuids 1000009-1065544 --add-subgids 1000009-1065544 ordinary",
        ),
        ({"without": ["newgidmap"]}, "newuidmap is not installed", "apt-get install uidmap"),
    ],
)
def test_the_command_is_named_that_gives_a_user_ids(
    users: Callable[..., User], options: dict[str, Any], told: str, command: str
) -> None:
    found = findings_of(users(**options).inlay("doctor", "--json"))
    assert found["ids"]["state"] == "limited"
    assert told in found["ids"]["told"]
    assert found["ids"]["command"] == command
    if command.startswith("usermod"):
        changed = findings_of(users(**options, first=command).inlay("doctor", "--json"))
        assert changed["ids"]["state"] == "ok"


def test_newuidmap_without_its_privileges_is_told_of(users: Callable[..., User]) -> None:
    found = findings_of(
        users().run("setpriv", "--no-new-privs", sys.executable, "-m", "inlay", "doctor", "--json")
    )
    assert "no_new_privs is set" in found["ids"]["told"]


def test_programs_that_are_missing_are_named_with_their_package(users: Callable[..., User]) -> None:
    for name in ("git", "crun", "ssh"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    found = findings_of(users(without=["git", "crun", "ssh"]).inlay("doctor", "--json"))
    assert [found[name]["command"] for name in ("git", "crun", "ssh")] == [
        "apt-get install git",
        "apt-get install crun",
        "apt-get install openssh-client",
    ]
    assert "it is the default" in found["runc" if shutil.which("runc") else "builtin"]["told"]


def test_a_credential_helper_that_is_not_there_is_named(inlay: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "nosuch", "credHelpers": {"r.example": "other"}}')
    env = {"DOCKER_CONFIG": str(tmp_path)}
    found = findings_of(inlay("doctor", "--json", "--root", str(tmp_path / "s"), env=env))
    assert re.match(
        "docker-credential-(nosuch|other), which .* names, is not installed", found["credentials"]["told"]
    )


def test_where_credentials_come_from_is_named(inlay: Callable[..., Any], tmp_path: Path) -> None:
    env = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_AUTH_CONFIG": "{}"}
    assert "from DOCKER_AUTH_CONFIG\n" in inlay("doctor", "--root", str(tmp_path / "s"), env=env).out
    (tmp_path / "config.json").write_text("{}")
    said = inlay("doctor", "--root", str(tmp_path / "s"), env=env).out
    assert f"from DOCKER_AUTH_CONFIG and {tmp_path}/config.json\n" in said


def test_a_store_that_cannot_be_is_a_failure(inlay: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = inlay("doctor", "--json", "--root", str(tmp_path / "file"))
    assert done.code == 1
    assert findings_of(done)["store"]["state"] == "failed"
