"""Which ids a user is granted, and what this process may do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from inlay.errors import SolveError
from inlay.system import privileges, rootless
from inlay.system.programs import find_program

if TYPE_CHECKING:
    from pathlib import Path


def test_ranges_are_the_users_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text(
        "# comment\nother:1:2\nroot:100000:65536\n0:300000:5\nroot:1:0\nroot:x:y\nroot:1\nrooted:7:7\n\n"
    )
    assert rootless.granted_ids(str(path), 0) == [(100000, 65536), (300000, 5)]
    assert rootless.granted_ids(str(path), 12345) == []
    assert rootless.granted_ids(str(tmp_path / "none"), 0) == []


def test_granted_ranges_follow_the_users_own_id_without_gaps() -> None:
    arguments = rootless.map_arguments(1000, [(100000, 65536), (300000, 5)])
    assert " ".join(arguments) == "0 1000 1 1 100000 65536 65537 300000 5"


def test_programs_are_found_on_path_and_where_the_systems_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.touch(0o755)
    monkeypatch.setenv("PATH", f":/nonexistent:{tmp_path}")
    assert find_program("program") == str(program)
    assert find_program("sh").endswith("/sh")
    assert find_program("no-such-program") == ""


def test_an_owner_that_does_not_exist_is_told_by_the_files_name(tmp_path: Path) -> None:
    with pytest.raises(SolveError, match=r"^etc/shadow cannot be given to 8589934592:0: "):
        privileges.change_owner(str(tmp_path), 1 << 33, 0, name=b"etc/shadow")


def test_other_errors_of_changing_owners_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        privileges.change_owner(str(tmp_path / "none"), 0, 0, name="none")


@pytest.mark.skipif(
    privileges.in_user_namespace() or not privileges.is_privileged(), reason="needs the machine's root"
)
def test_the_machines_root_needs_no_namespace() -> None:
    before = os.readlink("/proc/self/ns/user")
    assert rootless.begin_to_enter() is None
    assert os.readlink("/proc/self/ns/user") == before
    assert (privileges.mapping_name(), privileges.refusal(), privileges.shortage()) == ("", None, None)
