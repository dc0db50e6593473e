"""inlay completion: what shells offer when Tab is pressed."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

ASK_BASH = """
eval "$(cat)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_inlay
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str) -> str:
    command = [sys.executable, "-m", "inlay", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def bash() -> str:
    return script("bash")


def offered(bash: str, *words: str) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", ASK_BASH, "bash", "inlay", *words],
        input=bash,
        capture_output=True,
        text=True,
        check=True,
        cwd="/proc/self/task",  # nothing here begins as words do
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_options_and_values(bash: str) -> None:
    assert offered(bash, "b") == ["build"]
    assert {"build", "cache", "du", "image", "prune", "--version"} <= set(offered(bash, ""))
    assert offered(bash, "cache", "")[:1] == ["inspect"]
    assert offered(bash, "build", "--cache-f") == ["--cache-from"]
    assert offered(bash, "build", "-q", "--progress", "p") == ["plain"]
    assert offered(bash, "build", "--progress", "plain", "--no-cache-") == ["--no-cache-filter"]
    assert offered(bash, "cache", "inspect", "--j") == ["--json"]
    assert offered(bash, "image", "rm", "--quiet") == []
    assert offered(bash, "prune", "-f", "--dry") == ["--dry-run"]
    assert offered(bash, "completion", "f") == ["fish"]
    assert offered(bash, "build", "-f", "/usr/bi") == ["/usr/bin"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_sound(shell: str) -> None:
    text = script(shell)
    assert "cache-from" in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    checked = subprocess.run(
        [shell, "-n", "/dev/stdin"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_other_shells_are_refused() -> None:
    command = [sys.executable, "-m", "inlay", "completion", "csh"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
