"""Modules come out of the one file of bytecode as they would out of their own; what is old or broken is not used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import inlay

if TYPE_CHECKING:
    from collections.abc import Callable

    from ordinary import User

LOADERS = """
import sys
from inlay import bytecode
used = bytecode.use()
import inlay.platform, inlay.oci.descriptor
print(type(inlay.platform.__spec__.loader).__name__, type(inlay.oci.descriptor.__spec__.loader).__name__)
print(used is not None and used.is_old, inlay.platform.__file__, *inlay.oci.__path__)
print(inlay.platform.host.__code__.co_filename, inlay.platform.__doc__[:9])
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, with its file of bytecode."""
    folder = tmp_path / "inlay"
    shutil.copytree(Path(inlay.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    python(folder, "-m", "inlay.bytecode")
    return folder


def python(package: Path, *arguments: str, **variables: str) -> list[str]:
    environment = {"PYTHONPATH": str(package.parent), "PATH": os.environ["PATH"], **variables}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def files(package: Path) -> list[Path]:
    return list((package / "__pycache__").glob("*.bytecode"))


def test_modules_come_from_the_file_and_know_their_files(package: Path) -> None:
    platform = f"{package}/platform.py"
    assert python(package, "-c", LOADERS) == [
        "Bytecode Bytecode",
        f"False {platform} {package}/oci",
        f"{platform} Platforms",
    ]


def test_an_edited_module_comes_from_its_source(package: Path) -> None:
    source = package / "platform.py"
    source.write_text(source.read_text().replace("Platforms:", "Plattform:", 1))
    os.utime(source, ns=(1, 1))
    loaders, found, said = python(package, "-c", LOADERS)
    assert loaders == "SourceFileLoader Bytecode"
    assert found.startswith("True ")
    assert said.endswith("Plattform")


def test_a_module_that_was_deleted_is_not_there(package: Path) -> None:
    (package / "platform.py").unlink()
    find = "from importlib.util import find_spec; print(find_spec('inlay.platform'))"
    assert python(package, "-c", f"from inlay import bytecode; bytecode.use(); {find}") == ["None"]


@pytest.mark.parametrize("left", [0, 4, 5000, -1])
def test_half_a_file_is_not_used(package: Path, left: int) -> None:
    (bytecode,) = files(package)
    bytecode.write_bytes(bytecode.read_bytes()[:left])
    assert python(package, "-c", LOADERS)[0] == "SourceFileLoader SourceFileLoader"


def test_a_file_made_elsewhere_is_not_used(package: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / "inlay"
    shutil.copytree(package, moved)
    assert python(moved, "-c", LOADERS)[0] == "SourceFileLoader SourceFileLoader"


def test_the_command_makes_a_missing_or_old_file_anew_where_python_may_write(
    package: Path, tmp_path: Path
) -> None:
    (bytecode,) = files(package)
    bytecode.unlink()
    for where in ({"PYTHONDONTWRITEBYTECODE": "1"}, {"PYTHONPYCACHEPREFIX": str(tmp_path / "prefix")}):
        assert python(package, "-m", "inlay", "--version", **where)
        assert files(package) == []
    assert python(package, "-m", "inlay", "--version")
    assert files(package) == [bytecode]
    before = bytecode.read_bytes()
    assert python(package, "-m", "inlay", "--version")
    assert bytecode.read_bytes() == before
    os.utime(package / "errors.py", ns=(1, 1))
    assert python(package, "-m", "inlay", "--version")
    assert bytecode.read_bytes() != before
    assert python(package, "-c", LOADERS)[1].startswith("False ")


@pytest.mark.root
def test_a_user_who_may_not_write_it_does_not_make_it_either(users: Callable[..., User]) -> None:
    """It would be made for nothing by each call, in ten times the time that a build takes."""
    script = (
        "import sys; from inlay import bytecode\n"
        "sys.dont_write_bytecode = False\n"
        "bytecode.write = lambda: print('made')\n"
        "bytecode.renew(None)\n"
    )
    done = users().run(sys.executable, "-c", script)
    assert (done.code, done.out) == (0, ""), done.err
