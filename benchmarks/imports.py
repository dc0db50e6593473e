#!/usr/bin/env python3
"""What an unchanged build imports, and how long that takes (`python -X importtime`).

    benchmarks/imports.py [--runs 5] [--report FILE]

Times are those that Python measures, of which measuring is a part; the smallest of all runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import builders
import run
import workloads

MARKS = ("<!-- benchmarks/imports.py: begin -->", "<!-- benchmarks/imports.py: end -->")
_SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--report", default=run.REPORT, help="where the table goes; empty: print it only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imports") as state, run.registry(state) as host:
        inlay = builders.Inlay(state, host)
        context, reference = f"{state}/small", f"{host}/imports/small:1"
        workloads.small(context, run.push_base(state, host, inlay))
        inlay.build(context, reference)
        took: dict[str, int] = {}
        for _ in range(arguments.runs):
            for name, micros in imports(inlay.command(context, reference)).items():
                took[name] = min(micros, took.get(name, micros))
    lines = report(took, f"{time.strftime('%Y-%m-%d')}; {inlay.version}; {run.machine()}.")
    print("\n".join(lines))
    if arguments.report:
        run.write_report(arguments.report, "\n".join(lines), MARKS)


def imports(command: list[str]) -> dict[str, int]:
    """Microseconds by module, without those that it imports itself, in the order of import."""
    argv = [sys.executable, "-X", "importtime", *command]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line]
    return {name.strip(): int(own) for own, _, name in rows if own.strip().isdigit()}


def report(took: dict[str, int], measured: str) -> list[str]:
    """A table of who owns the modules, and which take longest."""
    site = list(took).index("site") + 1 if "site" in took else 0
    bare, after = list(took)[:site], list(took)[site:]
    kinds = {
        "the interpreter, before it runs anything": bare,
        "Python's": [name for name in after if name.partition(".")[0] != "inlay"],
        "inlay's": [name for name in after if name.partition(".")[0] == "inlay"],
    }
    lines = [measured, "", "| modules | how many | ms | the longest |", "|---|---:|---:|---|"]
    for kind, names in kinds.items():
        longest = sorted(names, key=lambda name: -took[name])[:_SHOWN]
        told = ", ".join(f"{name} {took[name] / 1000:.1f}" for name in longest)
        total = sum(took[name] for name in names) / 1000
        lines.append(f"| {kind} | {len(names)} | {total:.1f} | {told} |")
    return lines


if __name__ == "__main__":
    os.environ.pop("PYTHONPROFILEIMPORTTIME", None)
    main()
