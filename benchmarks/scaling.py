#!/usr/bin/env python3
"""How inlay's cost grows with the size of a build: each kind at 1, 4 and 16 times its size.

    benchmarks/scaling.py [--only files,steps] [--runs 3] [--report FILE]

The exponent is the slope between 4 and 16 times: 1 is linear, less means that what is always there still
counts. CPU time is that of inlay and all it runs: on a busy machine it says more than the clock.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

import builders
import run
import workloads

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (1, 4, 16)
MARKS = ("<!-- benchmarks/scaling.py: begin -->", "<!-- benchmarks/scaling.py: end -->")


class Kind(NamedTuple):
    """`make` writes a context of a size, in `unit`s of which there are `base` at size 1."""

    make: Callable[[str, str, int], None]
    base: int
    unit: str
    scenarios: tuple[str, ...] = ("cold", "noop", "import")


KINDS = {
    "files": Kind(workloads.files, 1250, "files of 4 KiB in one COPY"),
    "steps": Kind(workloads.copies, 30, "COPY steps"),
    "runs": Kind(workloads.runs, 10, "RUN steps", ("cold", "noop")),
    "stages": Kind(workloads.stages, 8, "stages of one RUN each, joined", ("cold", "noop")),
    "records": Kind(workloads.copies, 60, "records of an imported cache, all of them used", ("import",)),
    "bytes": Kind(workloads.layer, 32, "MiB in one layer", ("cold",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--report", default=run.REPORT, help="where the table goes; empty: print it only")
    arguments = parser.parse_args()
    lines = [
        "| what | scenario | 1× | 4× | 16× | exponent (CPU) | exponent (clock) | memory at 16× (MB) |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory(prefix="scaling") as state, run.registry(state) as host:
        inlay = builders.Inlay(state, host)
        base = run.push_base(state, host, inlay)
        for name in arguments.only.split(","):
            for line in rows(name, KINDS[name], state, host, base, inlay, arguments.runs):
                print(line, flush=True)
                lines.append(line)
    if arguments.report:
        measured = f"medians of {arguments.runs} runs, in seconds of CPU"
        told = f"{time.strftime('%Y-%m-%d')}; {inlay.version}; {run.machine()}; {measured}."
        run.write_report(arguments.report, "\n".join([told, "", *lines]), MARKS)


def rows(
    name: str, kind: Kind, state: str, host: str, base: str, inlay: builders.Inlay, runs: int
) -> list[str]:
    """Measure one kind; a row of the table for each of its scenarios."""
    points: dict[tuple[str, int], list[builders.Cost]] = {}
    for size in SIZES:
        context = f"{state}/{name}"
        kind.make(context, base, kind.base * size)
        reference = f"{host}/scaling/{name}{size}:1"
        for _ in range(runs):
            for scenario in run.SCENARIOS:
                if scenario != "noop":
                    inlay.wipe()
                cache_from = reference if scenario == "import" else ""
                cost = inlay.build(context, reference, cache_from)
                points.setdefault((scenario, size), []).append(cost)
        shutil.rmtree(context)
    return [row(name, kind, scenario, points) for scenario in kind.scenarios]


def row(name: str, kind: Kind, scenario: str, points: dict[tuple[str, int], list[builders.Cost]]) -> str:
    cpu = [statistics.median(each.cpu for each in points[scenario, size]) for size in SIZES]
    clock = [min(each.seconds for each in points[scenario, size]) for size in SIZES]
    memory = max(each.memory for each in points[scenario, SIZES[-1]]) / 1e6
    cells = [f"{kind.base} {kind.unit}", scenario, *(f"{value:.2f}" for value in cpu)]
    cells += [f"{slope(cpu):.2f}", f"{slope(clock):.2f}", f"{memory:.0f}"]
    return "| " + " | ".join(cells) + " |"


def slope(values: list[float]) -> float:
    """The exponent between the last two values, of which one is four times the size of the other."""
    return math.log(values[-1] / values[-2]) / math.log(SIZES[-1] / SIZES[-2])


if __name__ == "__main__":
    main()
