"""Steps that count how often they run, and a store that counts how often it loads."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING, Any

from inlay import tasks
from inlay.errors import CacheError
from inlay.solver.index import CacheIndex
from inlay.solver.keys import CacheInput, CacheMap
from inlay.solver.solver import Solver
from inlay.solver.vertex import Edge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Barrier

    from inlay.solver.keys import CacheRecord
    from inlay.solver.solver import Solved

Log = list[tuple[str, str]]


def sha(*parts: object) -> str:
    return "sha256:" + hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


async def content(value: object) -> str:
    return sha("content", value)


class Step:
    """A vertex named `name`, whose op digest comes of `seed`. Inputs in `slow` have a content digest.

    It takes `delay` seconds to run, and waits for the other steps that are to run at the same time as `meets` says.
    """

    def __init__(
        self,
        log: Log,
        name: str,
        seed: str,
        value: object,
        *inputs: Edge[Any],
        slow: tuple[int, ...] = (),
        guard: str = "",
        selectors: dict[int, str] | None = None,
        ignore_cache: bool = False,
        delay: float = 0,
        meets: Barrier | None = None,
        fn: Callable[[Sequence[Any]], object] | None = None,
        digests: tuple[str, ...] = (),
        outputs: int = 1,
        is_source: bool | None = None,
    ) -> None:
        self.log, self.digest, self.value, self.inputs = log, name, value, inputs
        self.is_source = not inputs if is_source is None else is_source
        self.is_instruction = not self.is_source
        self.ignore_cache, self.fn, self.outputs = ignore_cache, fn, outputs
        self.delay, self.meets = delay, meets
        self.map = CacheMap(
            digests or (sha("seed", seed),),
            tuple(
                CacheInput(
                    (selectors or {}).get(i, f"sel-{i}" if i in slow else ""),
                    content if i in slow else None,
                    guard if i in slow else "",
                )
                for i in range(len(inputs))
            ),
        )

    async def cache_map(self) -> CacheMap[Any]:
        self.log.append(("map", self.digest))
        return self.map

    async def run(self, inputs: Sequence[Any]) -> list[Any]:
        import time

        self.log.append(("run", self.digest))
        if self.delay:
            await tasks.in_thread(time.sleep, self.delay)
        if self.meets:
            await tasks.in_thread(self.meets.wait, 30)
        value = self.fn(inputs) if self.fn else self.value
        return [value] if self.outputs == 1 else [(value, n) for n in range(self.outputs)]


class Store:
    """Results by id; `broken` ids, or all of them, cannot be loaded."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.loads = 0
        self.broken: set[str] | None = set()

    async def load(self, record: CacheRecord) -> Any:
        self.loads += 1
        if self.broken is None or record.id in self.broken or not (record.id in self.values or record.remote):
            raise CacheError(f"{record.id} is gone")
        if record.remote:
            return tuple(layer.digest for layer in record.remote.descriptors())
        return self.values[record.id]

    async def keep(self, result: Any) -> str:
        self.values[f"result-{result}"] = result
        return f"result-{result}"


class Builder:
    """An index and a store that several solves share, and a log of what ran."""

    def __init__(self, index: CacheIndex | None = None, *, time_ns: int = 1_000_000_000) -> None:
        self.index = index or CacheIndex()
        self.store = Store()
        self.log: Log = []
        self._time = itertools.count(time_ns)

    def step(self, name: str, seed: str, value: object, *inputs: Edge[Any], **options: Any) -> Edge[Any]:
        return Edge(Step(self.log, name, seed, value, *inputs, **options))

    def solver(self, **options: Any) -> Solver[Any]:
        return Solver(self.index, self.store, clock=lambda: next(self._time), **options)

    def solve(self, *edges: Edge[Any], **options: Any) -> Any:
        """Solve in a fresh log and count of loads; return the (first) value."""
        return self.solved(*edges, **options)[0].value

    def solved(self, *edges: Edge[Any], **options: Any) -> list[Solved[Any]]:
        self.log.clear()
        self.store.loads = 0
        return tasks.run(self.solver(**options).solve(edges))

    @property
    def runs(self) -> list[str]:
        return sorted(name for what, name in self.log if what == "run")
