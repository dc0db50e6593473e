"""Symbolic modes, as BSD's setmode understands them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from inlay.actions.files.chmod import parse_mode
from inlay.errors import SolveError

if TYPE_CHECKING:
    from pathlib import Path

FILE, FOLDER = 0o100000, 0o040000


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("755", FILE | 0o4600, 0o755),
        ("0", FILE | 0o777, 0),
        ("7777", FILE, 0o7777),
        ("u+x,g-r", FILE | 0o644, 0o704),
        ("a=r", FILE | 0o7777, 0o1444),
        ("=", FILE | 0o7777, 0o1000),
        ("+t", FILE | 0o644, 0o1644),
        ("u+s,g+s", FILE | 0o755, 0o6755),
        ("o+s", FILE | 0o755, 0o755),
        ("g=u", FILE | 0o741, 0o771),
        ("go=u-w", FILE | 0o700, 0o755),
        ("g+o,o=", FILE | 0o605, 0o650),
        ("u-g", FILE | 0o750, 0o250),
        ("+X", FILE | 0o644, 0o644),
        ("+X", FOLDER | 0o600, 0o711),
        ("u=rwX,go=rX", FILE | 0o100, 0o744 | 0o011),
        ("ug+rw-x", FILE | 0o111, 0o661),
        ("-x+X", FILE | 0o755, 0o755),
    ],
)
def test_modes_change_as_they_say(text: str, mode: int, expected: int) -> None:
    assert oct(parse_mode(text)(mode)) == oct(expected)


@pytest.mark.parametrize(
    "text", ["", "8", "77777", "u", "u+x,", ",u+x", "u+q", "x+r", "u+x g+r", "u*x", "-z"]
)
def test_what_is_no_mode_is_an_error(text: str) -> None:
    with pytest.raises(SolveError, match="invalid mode"):
        parse_mode(text)


@pytest.mark.parametrize(
    "text", ["u+x", "go-rwx", "a+X", "u=rw,g=r,o=", "g=u", "o=g-w", "u+s", "+t", "ug=rx"]
)
@pytest.mark.parametrize("mode", [0o000, 0o644, 0o755, 0o4711, 0o640, 0o111])
def test_modes_agree_with_chmod(tmp_path: Path, text: str, mode: int) -> None:
    """Where BSD's and GNU's rules do not differ."""
    file = tmp_path / "f"
    file.touch()
    file.chmod(mode)
    subprocess.run(f"umask 0; chmod {text} {file}", shell=True, check=True)
    assert oct(parse_mode(text)(FILE | mode)) == oct(file.stat().st_mode & 0o7777)
