"""What becomes of steps: as events for who watches, as outcomes for who asked for the build."""

from __future__ import annotations

import time

from inlay.actions.step import Step
from inlay.errors import SolveError
from inlay.progress.events import Completed, Started
from inlay.request import StepOutcome
from inlay.tasks import Cancelled
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.progress.events import Event


class Outcomes:
    """Told by the solver what happens; the outcomes of steps are in `of_steps`, by their digests."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self.of_steps: dict[str, StepOutcome] = {}

    def started(self, vertex: object) -> None:
        step = _step(vertex)
        self._emit(Started(step.digest, step.name, time.time()))

    def completed(self, vertex: object) -> None:
        self._finish(vertex, "ran", Completed(_step(vertex).digest, time.time()))

    def cached(self, vertex: object) -> None:
        step = _step(vertex)
        self._emit(Started(step.digest, step.name, time.time()))
        self._finish(vertex, "cached", Completed(step.digest, time.time(), cached=True))

    def failed(self, vertex: object, error: BaseException) -> None:
        cancelled = isinstance(error, Cancelled | KeyboardInterrupt)
        text = error.message if isinstance(error, SolveError) else str(error)
        event = Completed(
            _step(vertex).digest, time.time(), error="" if cancelled else text, cancelled=cancelled
        )
        self._finish(vertex, "failed", event)

    def missing(self, vertex: object) -> None:
        """A step would have to run, but is not to."""
        self._note(_step(vertex), "missing")

    def _finish(self, vertex: object, outcome: str, event: Completed) -> None:
        self._emit(event)
        self._note(_step(vertex), outcome)

    def _note(self, step: Step, outcome: str) -> None:
        if step.is_instruction:
            location = str(step.vertex.location or "")
            self.of_steps[step.digest] = StepOutcome(step.name, outcome, step.digest, location)


def _step(vertex: object) -> Step:
    assert isinstance(vertex, Step)
    return vertex
