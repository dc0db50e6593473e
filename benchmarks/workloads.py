"""The workloads: each function writes a build context, the same bytes on every machine.

All start from one base image, whose reference takes the place of `@BASE@`. Contents come from SHAKE-128,
so that they neither depend on a version of `random` nor compress.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20


def small(context: str, base: str) -> None:
    """Nine steps in two stages: what a small service looks like."""
    _dockerfile(
        context,
        base,
        [
            "FROM @BASE@ AS build",
            "WORKDIR /src",
            "COPY src ./",
            "RUN sort words.txt > /sorted.txt && wc -l < /sorted.txt > /count.txt",
            "FROM @BASE@",
            "ENV LANG=C",
            "RUN mkdir -p /srv/words",
            "COPY --from=build /sorted.txt /srv/words/",
            "COPY serve.sh /srv/",
            'CMD ["sh", "/srv/serve.sh"]',
        ],
    )
    _file(context, "src/words.txt", b"oak\nelm\nash\n")
    _file(context, "serve.sh", b"cat /srv/words/sorted.txt\n")


def files20k(context: str, base: str) -> None:
    """A context of 20,000 files of 4 KiB in 200 folders: the cost of a file."""
    files(context, base, 20_000)


def runs40(context: str, base: str) -> None:
    """Forty RUN steps one after another: the cost of a step."""
    runs(context, base, 40)


def layer500m(context: str, base: str) -> None:
    """One layer of 500 MiB, half of it compressible: the cost of a byte."""
    layer(context, base, 500)


def stages8(context: str, base: str) -> None:
    """Eight independent stages of half a second each, and one that joins them: steps side by side."""
    stages(context, base, 8, seconds=0.5)


def steps120(context: str, base: str) -> None:
    """A hundred and twenty COPY steps: how cost grows with the length of a chain."""
    copies(context, base, 120)


# -- of any size -------------------------------------------------------------------------------------------


def files(context: str, base: str, count: int) -> None:
    """So many files of 4 KiB, a hundred in a folder."""
    _dockerfile(context, base, ["FROM @BASE@", "WORKDIR /app", "COPY . .", "RUN true"])
    for number in range(count):
        name = f"part{number // 100:03}/unit{number % 100:03}.txt"
        _file(context, name, _noise(name, 2048).hex().encode())


def runs(context: str, base: str, count: int) -> None:
    """So many RUN steps one after another."""
    _dockerfile(context, base, ["FROM @BASE@", *(f"RUN echo {n} > /step{n}" for n in range(count))])


def layer(context: str, base: str, size_mib: int) -> None:
    """A layer of so many MiB, half of it compressible, in files of 10 MiB and the rest."""
    _dockerfile(context, base, ["FROM @BASE@", "COPY data /data"])
    for number, start in enumerate(range(0, size_mib, 10)):
        half = min(10, size_mib - start) * MIB // 2
        line = b"%08d all work and no play makes a dull benchmark\n" % number
        text = line * (half // len(line) + 1)
        _file(context, f"data/{number:02}.bin", _noise(str(number), half) + text[:half])


def stages(context: str, base: str, count: int, *, seconds: float = 0) -> None:
    """So many stages that each take `seconds`, and one that joins them."""
    sleep = f"sleep {seconds} && " if seconds else ""
    each = [f"FROM @BASE@ AS part{n}\nRUN {sleep}echo {n} > /part{n}" for n in range(count)]
    joins = [f"COPY --from=part{n} /part{n} /" for n in range(count)]
    _dockerfile(context, base, [*each, "FROM @BASE@", *joins])


def copies(context: str, base: str, count: int) -> None:
    """So many COPY steps one after another."""
    _dockerfile(context, base, ["FROM @BASE@", *(f"COPY f{n % 10} /d/{n}" for n in range(count))])
    for number in range(10):
        _file(context, f"f{number}", b"%d\n" % number)


ALL: dict[str, Callable[[str, str], None]] = {
    function.__name__: function for function in (small, files20k, runs40, layer500m, stages8, steps120)
}


def _dockerfile(context: str, base: str, lines: list[str]) -> None:
    _file(context, "Dockerfile", ("\n".join(lines) + "\n").replace("@BASE@", base).encode())


def _file(context: str, name: str, content: bytes) -> None:
    path = os.path.join(context, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as out:
        out.write(content)


def _noise(seed: str, size: int) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)
