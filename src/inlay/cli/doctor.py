"""`inlay doctor`: what works on this machine, and what would have to be done for the rest."""

from __future__ import annotations

import json
import sys

from inlay.cli import add_root
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from inlay.doctor import Finding

_MARKS = {"ok": "ok", "limited": "!!", "failed": "XX"}


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay doctor`."""
    parser.description = (
        "Try what builds need on this machine, and say what does not work and which command would change it. "
        "The exit code is 1 where builds cannot work."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_root(parser)
    parser.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from inlay.doctor import examine

    findings = examine(arguments.root)
    works = all(finding.state != "failed" for finding in findings)
    if arguments.json:
        print(json.dumps({"works": works, "findings": [each._asdict() for each in findings]}, indent=2))
    else:
        sys.stdout.write(as_text(findings))
    return 0 if works else 1


def as_text(findings: Sequence[Finding]) -> str:
    """A line for each finding, and below it the command, where there is one."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.state]}  {finding.name:{width}}  {finding.told}\n")
        if finding.command:
            lines.append(f"{'':{width + 6}}→ {finding.command}\n")
    return "".join(lines)
