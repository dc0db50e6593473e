"""Time the conversion of all recorded feature cases, a Dockerfile at a time: python benchmarks/frontend.py"""

from __future__ import annotations

import gzip
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from vectors.surroundings import Surroundings  # noqa: E402

from vectors import KINDS  # noqa: E402

RUNS = 5


def main() -> None:
    folder = ROOT / "tests/vectors/frontend"
    with gzip.open(folder / "feature.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in file]
    surroundings = Surroundings(folder)
    kind = KINDS["feature"]
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        for record in records:
            list(kind(record, surroundings))
        times.append((time.process_time() - start) / len(records) * 1000)
    print(
        f"{len(records)} cases, compared: {statistics.median(times):.2f} ms of CPU a case (median of {RUNS} runs)"
    )


if __name__ == "__main__":
    main()
