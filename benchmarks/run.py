#!/usr/bin/env python3
"""Time builders on the same workloads, in turn, and write docs/performance.md.

    benchmarks/run.py [--only small,runs40] [--builders inlay,buildkit] [--runs 5] [--once buildah] [--report FILE]

Needs docker-registry and busybox-static (Debian packages of these names). Builders that are not installed
are left out, with a word. Three scenarios, each a whole process, push included:

cold    nothing kept: pull the base image, build, export the inline cache
noop    the same again, nothing changed
import  nothing kept again: the cache comes from the image that was pushed
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from typing import TYPE_CHECKING

import builders
import workloads
from builders import Cost
from plot import ratio_chart

if TYPE_CHECKING:
    from collections.abc import Iterator

SCENARIOS = ("cold", "noop", "import")
REPORT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "performance.md")
BEGIN, END = "<!-- benchmarks/run.py: begin -->", "<!-- benchmarks/run.py: end -->"

Costs = dict[tuple[str, str, str], list[Cost]]
"""By workload, scenario and builder: one cost for each run."""


def main() -> None:
    arguments = _arguments()
    load = os.getloadavg()[0]
    for name in set(builders.ALL) - set(arguments.builders):
        print(f"{name} is left out: {_reason(name)}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench") as state,
        registry(state) as host,
        contextlib.ExitStack() as ends,
    ):
        compared: list[builders.Builder] = []
        for name in arguments.builders:
            compared.append(builders.ALL[name](state, host))
            ends.callback(compared[-1].close)
        base = push_base(state, host, compared[0])
        costs: Costs = {}
        for workload in arguments.only:
            context = f"{state}/{workload}"
            workloads.ALL[workload](context, base)
            for number in range(arguments.runs):
                for builder in compared:
                    if not number or builder.name not in arguments.once:
                        measure(builder, workload, context, host, costs)
            shutil.rmtree(context)
            print("\n".join(rows(costs, workload, arguments.builders)), flush=True)
        text = report(costs, arguments.only, compared, arguments.runs, once=arguments.once, load=load)
    if arguments.report:
        write_report(arguments.report, text)
        for name in set(arguments.builders) - {"inlay"} if "inlay" in arguments.builders else ():
            draw(
                os.path.join(os.path.dirname(arguments.report), f"performance-{name}.svg"),
                costs,
                arguments.only,
                name,
            )


def _reason(name: str) -> str:
    programs = builders.missing(name)
    return f"{' and '.join(programs)} not on PATH" if programs else "it was not asked for"


def draw(path: str, costs: Costs, only: list[str], other: str) -> None:
    """Write the chart of inlay's ratio to another builder."""

    def ratio(workload: str, scenario: str) -> float:
        ours, theirs = (
            statistics.median(cost.seconds for cost in costs[workload, scenario, name])
            for name in ("inlay", other)
        )
        return ours / theirs

    ratios = {workload: {scenario: ratio(workload, scenario) for scenario in SCENARIOS} for workload in only}
    with open(path, "w", encoding="utf-8") as out:
        out.write(ratio_chart(f"Time of inlay, in terms of {other}'s (less is better)", ratios, [0.5]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    known, found = list(workloads.ALL), builders.installed()
    parser.add_argument("--only", type=_names(known), default=known, metavar="WORKLOAD,…")
    parser.add_argument("--builders", type=_names(list(builders.ALL)), default=found, metavar="BUILDER,…")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--once",
        type=_names(list(builders.ALL)),
        default=[],
        metavar="BUILDER,…",
        help="builders that are measured once: they take minutes",
    )
    parser.add_argument("--report", default=REPORT, help="where the table goes; empty: print it only")
    return parser.parse_args()


class _names:  # noqa: N801 - an argparse type
    def __init__(self, known: list[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(self._known):
            raise argparse.ArgumentTypeError(
                f"{', '.join(sorted(unknown))}: not among {', '.join(self._known)}"
            )
        return names


def measure(builder: builders.Builder, workload: str, context: str, host: str, costs: Costs) -> None:
    """One run of all scenarios; appends to `costs`."""
    reference = f"{host}/{builder.name}/{workload}:latest"
    for scenario in SCENARIOS:
        if scenario != "noop":
            builder.wipe()
        cost = builder.build(context, reference, reference if scenario == "import" else "")
        costs.setdefault((workload, scenario, builder.name), []).append(cost)


@contextlib.contextmanager
def registry(state: str) -> Iterator[str]:
    """Run docker-registry on a free loopback port; gives `host:port`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = f"127.0.0.1:{port}"
    config = f"{state}/registry.yml"
    with open(config, "w", encoding="utf-8") as out:
        out.write(
            f"version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\nhttp: {{addr: {host}}}\n"
        )
        out.write(f"storage: {{filesystem: {{rootdirectory: {state}/registry}}}}\n")
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(["docker-registry", "serve", config], stdout=quiet, stderr=quiet)
    try:
        builders.wait_for(lambda: _answers(port))
        yield host
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def push_base(state: str, host: str, builder: builders.Builder) -> str:
    """Push an image of busybox with all its applets; return its reference."""
    context, reference = f"{state}/base", f"{host}/busybox:latest"
    os.mkdir(context)
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(f"{context}/rootfs.tar", "w") as tar:
        for name, mode in (("bin", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            tar.addfile(_entry(name, tarfile.DIRTYPE, mode))
        tar.add("/bin/busybox", "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                tar.addfile(_entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777, "busybox"))
    with open(f"{context}/Dockerfile", "w", encoding="utf-8") as out:
        out.write('FROM scratch\nADD rootfs.tar /\nENV PATH=/bin\nCMD ["sh"]\n')
    builder.build(context, reference)
    return reference


def _entry(name: str, kind: bytes, mode: int, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, target
    return entry


def rows(costs: Costs, workload: str, names: list[str]) -> list[str]:
    """The lines of the table for one workload: medians, and inlay's ratio to each of the others."""
    lines = []
    for scenario in SCENARIOS:
        seconds = {n: statistics.median(c.seconds for c in costs[workload, scenario, n]) for n in names}
        cells = [workload, scenario, *(f"{seconds[name]:.3f}" for name in names)]
        if "inlay" in names:
            cells += [f"{seconds['inlay'] / seconds[name]:.2f}" for name in names if name != "inlay"]
            cells.append(f"{max(c.memory for c in costs[workload, scenario, 'inlay']) / 1e6:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def report(
    costs: Costs,
    only: list[str],
    compared: list[builders.Builder],
    runs: int,
    *,
    once: list[str],
    load: float,
) -> str:
    """The part of docs/performance.md that is measured."""
    names = [builder.name for builder in compared]
    heads = ["workload", "scenario", *(f"{name} (s)" for name in names)]
    if "inlay" in names:
        heads += [f"inlay / {name}" for name in names if name != "inlay"] + ["inlay's memory (MB)"]
    versions = "; ".join(builder.version for builder in compared)
    told = f" (once: {', '.join(once)})" if once else ""
    lines = [
        f"{time.strftime('%Y-%m-%d')}; {versions}; {machine()}.",
        f"Medians of {runs} runs{told}, builders in turn; memory is the largest of all runs. Load before: {load:.1f}.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---|---|" + "---:|" * (len(heads) - 2),
    ]
    for workload in only:
        lines += rows(costs, workload, names)
    return "\n".join(lines)


def machine() -> str:
    kernel = platform.release().split("-")[0]
    return f"Python {platform.python_version()}; {os.cpu_count()} cores, Linux {kernel} {platform.machine()}"


def write_report(path: str, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put `text` between the two marks in the file at `path`; what stands around them is left as it is."""
    begin, end = marks
    try:
        with open(path, encoding="utf-8") as file:
            before, _, rest = file.read().partition(begin)
    except FileNotFoundError:
        before, rest = _HEAD, ""
    after = rest.partition(end)[2] or "\n"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}\n{text}\n{end}{after}")


_HEAD = """\
# Performance

"""

if __name__ == "__main__":
    sys.exit(main())
