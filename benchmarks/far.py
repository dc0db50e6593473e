#!/usr/bin/env python3
"""Time builders with a registry that is some way off, and write that to docs/performance.md. Needs root and `ip`.

    benchmarks/far.py [--only small,stages8] [--runs 5] [--round-trip 40] [--report FILE]

All runs in a network namespace of its own, where a relay stands before the registry, at an address that is not this
machine's loopback. It keeps what comes for half a round trip each way, and a new connection for a whole one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import builders
import run
import workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADDRESS = "192.0.2.1"  # for documentation: nobody's
PORT = 5000
MARKS = ("<!-- benchmarks/far.py: begin -->", "<!-- benchmarks/far.py: end -->")
_INSIDE = "FAR_NAMESPACE"


class FarInlay(builders.Inlay):
    """inlay, told to speak plain HTTP with a registry that is not on this machine."""

    def __init__(self, state: str, host: str) -> None:
        super().__init__(state, host)
        self._host = host

    def command(self, context: str, reference: str, cache_from: str = "") -> list[str]:
        program, build, *rest = super().command(context, reference, cache_from)
        return [program, build, "--insecure-registry", f"http://{self._host}", *rest]


def main() -> None:
    arguments = _arguments()
    if arguments.relay:
        asyncio.run(relay(arguments.relay, arguments.round_trip / 1000))
        return
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "yes"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    for command in ("link set lo up", f"addr add {ADDRESS}/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    only, load = arguments.only.split(","), os.getloadavg()[0]
    kinds: list[Callable[[str, str], builders.Builder]] = [FarInlay]
    if not builders.missing("buildkit"):
        kinds.append(builders.BuildKit)
    with (
        tempfile.TemporaryDirectory(prefix="bench") as state,
        run.registry(state) as near,
        relayed(near, arguments.round_trip) as host,
        contextlib.ExitStack() as ends,
    ):
        compared = [kind(state, host) for kind in kinds]
        for builder in compared:
            ends.callback(builder.close)
        base = run.push_base(state, host, compared[0])
        costs: run.Costs = {}
        for workload in only:
            context = f"{state}/{workload}"
            workloads.ALL[workload](context, base)
            for _ in range(arguments.runs):
                for builder in compared:
                    run.measure(builder, workload, context, host, costs)
            shutil.rmtree(context)
        table = run.report(costs, only, compared, arguments.runs, once=[], load=load)
        text = f"Round trips of {arguments.round_trip:g} ms. {table}"
    print(text)
    if arguments.report:
        run.write_report(arguments.report, text, MARKS)


@contextlib.contextmanager
def relayed(near: str, round_trip_ms: float) -> Iterator[str]:
    """Run a relay to the registry at `near`; gives the `host:port` that is far."""
    command = [sys.executable, __file__, "--relay", near, "--round-trip", str(round_trip_ms)]
    process = subprocess.Popen(command)
    try:
        time.sleep(1)
        yield f"{ADDRESS}:{PORT}"
    finally:
        process.terminate()
        process.wait(10)


async def relay(near: str, round_trip_s: float) -> None:
    """Hand everything on to `near`, late. Does not return."""
    host, _, port = near.partition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            hand_on(reader, there_writer, round_trip_s / 2, held_s=round_trip_s),
            hand_on(there_reader, writer, round_trip_s / 2),
        )
        for each in (there_writer, writer):
            each.close()

    server = await asyncio.start_server(serve, ADDRESS, PORT)
    async with server:
        await server.serve_forever()


async def hand_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late_s: float, *, held_s: float = 0.0
) -> None:
    """Write what is read `late_s` later, and nothing of it within `held_s` of now."""
    loop = asyncio.get_running_loop()
    pending: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    first = loop.time() + held_s

    async def write() -> None:
        while True:
            due, data = await pending.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    writing = asyncio.create_task(write())
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 18):
            pending.put_nowait((max(loop.time(), first) + late_s, data))
    pending.put_nowait((loop.time() + late_s, b""))
    with contextlib.suppress(OSError):
        await writing


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="small,stages8", metavar="WORKLOAD,…")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--round-trip", type=float, default=40.0, metavar="MS")
    parser.add_argument("--report", default=run.REPORT, help="where the table goes; empty: print it only")
    parser.add_argument("--relay", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
