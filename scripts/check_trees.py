#!/usr/bin/env python3
"""Build what BuildKit was recorded to build, and compare the trees.

    scripts/check_trees.py FOLDER HOST[:PORT] [RUNTIME…]

FOLDER holds a folder for each case, and `_base` with their base images; HOST is a registry to push those
to. Prints a line for each build and what differs; exits with 1 if anything does. Needs root and skopeo.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from vectors import builds  # noqa: E402


def main(arguments: list[str]) -> int:
    folder, host, *runtimes = arguments
    bases = builds.Bases(Path(folder) / "_base", host)
    bases.push()
    failed = 0
    for case in sorted(path.parent for path in Path(folder).glob("*/build.json")):
        for runtime in runtimes or ["builtin"]:
            with tempfile.TemporaryDirectory(prefix="inlay-trees-") as work:
                found = builds.check(case, bases, Path(work) / "case", "--runtime", runtime)
            print(f"{case.name} {runtime}: {'the same' if not found else 'different'}", flush=True)
            for line in found:
                print(f"  {line}", flush=True)
            failed += bool(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
