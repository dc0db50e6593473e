"""The how-to pages' examples run, in order: what they print is what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.root]

PAGES = Path(__file__).parents[2] / "docs/how-to"
BASE = "alpine:3.20"


class Example(NamedTuple):
    """A block of a page: Python, or commands with what they print."""

    kind: str
    text: str
    line: int


class Command(NamedTuple):
    script: str
    printed: str


def examples(page: str) -> list[Example]:
    text = (PAGES / page).read_text()
    return [
        Example(match[1], match[2], text.count("\n", 0, match.start(2)))
        for match in re.finditer(r"```(console|python)\n(.*?)```", text, re.DOTALL)
    ]


def commands(block: str) -> list[Command]:
    """`$ ` begins a command, `> ` goes on with it; the other lines are what it prints."""
    found: list[Command] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], ""))
        elif line.startswith("> ") and not found[-1].printed:
            found[-1] = found[-1]._replace(script=f"{found[-1].script}\n{line[2:]}")
        else:
            found[-1] = found[-1]._replace(printed=f"{found[-1].printed}{line}\n")
    return found


VARYING = (
    (r"\b[0-9a-f]{12,64}\b", "DIGEST"),
    (r"\b[0-9.]+[kMG]?B\b", "SIZE"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "TIME"),
    (r"linux/(amd64|arm64)", "PLATFORM"),
    (r"(?<=\S) +", " "),
)
"""What differs from machine to machine, and from day to day."""


def settled(text: str) -> str:
    for pattern, word in VARYING:
        text = re.sub(pattern, word, text)
    return text.strip()


def matches(printed: str, expected: str) -> bool:
    """Whether a page shows what was printed."""
    return settled(printed) == settled(expected)


@pytest.mark.parametrize("page", ["find-out-why-a-step-ran.md", "build-from-python.md"])
def test_the_examples_of_a_page_run(
    page: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    names: dict[str, object] = {}
    for example in examples(page):
        if example.kind == "python":
            exec(compile("\n" * example.line + example.text, str(PAGES / page), "exec"), names)
            continue
        for command in commands(example.text.replace(BASE, base)):
            done = subprocess.run(
                ["sh", "-c", command.script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
            )  # fmt: skip
            assert matches(done.stdout, command.printed), (
                f"{page}: {command.script}\nprinted\n{done.stdout}\nnot\n{command.printed}"
            )
