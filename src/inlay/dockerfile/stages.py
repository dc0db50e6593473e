"""The stages of a build: which there are, what each needs, and where each begins.

BuildKit: frontend/dockerfile/dockerfile2llb/convert.go, up to `resolveStages`.
"""

from __future__ import annotations

from inlay.dockerfile import instructions as ins
from inlay.dockerfile.outlines import Outline
from inlay.dockerfile.state import State
from inlay.dockerfile.suggest import suggest
from inlay.errors import DockerfileError
from inlay.golang.text import atoi, quote
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from inlay.dockerfile.contexts import NamedContext
    from inlay.dockerfile.image import Image
    from inlay.dockerfile.instructions import ArgDefinition, Instruction, Stage
    from inlay.dockerfile.shell import Lexer
    from inlay.errors import Location
    from inlay.platform import Platform

SCRATCH = "scratch"


class Step(NamedTuple):
    """One instruction of a stage, and the stages that its `from`s mean, in order."""

    instruction: Instruction
    sources: tuple[StageBuild, ...] = ()
    is_trigger: bool = False
    """True where it comes from ONBUILD of the base."""


class StageBuild:
    """A stage on its way to a result.

    Images that COPY and mounts name are stages too, with no instructions and `hidden`.
    """

    __slots__ = (
        "arguments",
        "base",
        "base_image",
        "base_name",
        "cmd",
        "context_paths",
        "deps",
        "dispatched",
        "display_name",
        "entrypoint",
        "healthcheck",
        "hidden",
        "ignore_cache",
        "image",
        "location",
        "name",
        "named_context",
        "outline",
        "paths",
        "platform",
        "resolved",
        "stage",
        "state",
        "step_count",
        "step_index",
        "steps",
        "triggers_known",
        "workdir_set",
    )

    def __init__(self, base_name: str, stage: Stage | None = None, location: Location | None = None) -> None:
        from inlay.dockerfile.image import Image

        self.stage = stage
        self.base_name = base_name
        self.name = stage.stage_name if stage else ""
        self.display_name = self.name
        """In step names; unnamed stages are `stage-0` and so on."""
        self.location = stage.location if stage else location
        self.hidden = stage is None
        self.base: StageBuild | None = None
        self.named_context: NamedContext | None = None
        self.platform: Platform | None = None
        self.state = State()
        self.image: Image = Image()
        self.base_image: Image | None = None
        self.deps: dict[StageBuild, Instruction] = {}
        self.steps: list[Step] = []
        self.arguments: list[ArgDefinition] = []
        """The ARGs so far, with their values; inherited."""
        self.context_paths: set[str] = set()
        self.paths: set[str] = set()
        """What others take of this stage; shared with its base."""
        self.dispatched = self.resolved = self.triggers_known = False
        self.ignore_cache = False
        self.step_index = self.step_count = 0
        self.workdir_set = False
        self.cmd: Location | None = None
        self.entrypoint: Location | None = None
        self.healthcheck: Location | None = None
        self.outline = Outline()

    def inherit(self) -> None:
        """Begin where the base stage is by now. The triggers of the base do not carry over."""
        base = self.base
        if base is None:
            return
        self.state = base.state.copy()
        self.platform = base.platform
        self.image = base.image.copy()
        self.image.on_build = []
        self.base_image = base.base_image
        self.paths = base.paths
        self.workdir_set = base.workdir_set
        self.arguments += base.arguments


class StageList:
    """All stages in the order of the file, hidden ones where they were first named."""

    __slots__ = ("_by_name", "stages")

    def __init__(self) -> None:
        self.stages: list[StageBuild] = []
        self._by_name: dict[str, StageBuild] = {}

    def add(self, stage: StageBuild) -> None:
        """Add a stage; its base is the latest stage of that name so far."""
        self.stages.append(stage)
        base = self._by_name.get(stage.base_name)
        if base is not None:
            stage.base = base
            stage.outline = base.outline.copy()
        if stage.name:
            self._by_name[stage.name.lower()] = stage

    def find(self, name: str) -> StageBuild | None:
        return self._by_name.get(name.lower())

    def at(self, index: int) -> StageBuild:
        if not 0 <= index < len(self.stages):
            raise DockerfileError(f"invalid stage index {index}")
        return self.stages[index]

    def names(self) -> list[str]:
        return [stage.display_name for stage in self.stages if stage.display_name]

    def target(self, name: str) -> StageBuild:
        """The stage to build: the last one where `name` is empty."""
        if not name:
            return self.stages[-1]
        found = self.find(name)
        if found is None:
            message = f"target stage {quote(name)} could not be found"
            raise DockerfileError(message, hint=suggest(name, self.names()))
        return found

    def connect(self, lexer: Lexer) -> None:
        """Find what each stage needs of others."""
        for stage in self.stages:
            instructions = stage.stage.instructions if stage.stage else ()
            stage.steps = [self._step(stage, instruction, lexer) for instruction in instructions]
        check_cycles(self.stages)
        if len(self.stages) == 1:
            self.stages[0].display_name = ""

    def prepend_triggers(self, stage: StageBuild, triggers: Iterable[Instruction], lexer: Lexer) -> bool:
        """Put ONBUILD's instructions before the stage's own; return whether they need other stages."""
        steps = [self._step(stage, trigger, lexer)._replace(is_trigger=True) for trigger in triggers]
        stage.steps[:0] = steps
        stage.step_count += len(steps)
        return any(step.sources for step in steps)

    def _step(self, stage: StageBuild, instruction: Instruction, lexer: Lexer) -> Step:
        try:
            step = Step(instruction, tuple(self._sources(instruction, lexer)))
        except DockerfileError as error:
            error.location = error.location or instruction.location  # BuildKit says no line here
            raise
        for source in step.sources:
            stage.deps[source] = instruction
            if source.hidden:
                self.add(source)
        return step

    def _sources(self, instruction: Instruction, lexer: Lexer) -> Iterator[StageBuild]:
        if isinstance(instruction, ins.Run):
            for name in instruction.sources:
                # A mount without `from` may turn out to be none of the context: it counts as scratch.
                yield self.find(name or SCRATCH) or StageBuild(name or SCRATCH, location=instruction.location)
        elif isinstance(instruction, ins.Copy) and instruction.source_stage:
            yield self._copy_source(instruction, lexer)

    def _copy_source(self, copy: ins.Copy, lexer: Lexer) -> StageBuild:
        name = copy.source_stage
        if lexer.expand(name, {}).text != name:
            raise DockerfileError(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG "
                "from global scope as a workaround"
            )
        index = atoi(name)
        if index is not None:
            return self.at(index)
        return self.find(name) or StageBuild(name, location=copy.location)


def check_cycles(stages: Sequence[StageBuild]) -> None:
    """Raise `DockerfileError` if stages need each other."""
    visited: set[StageBuild] = set()
    for stage in stages:
        cycle = _find_cycle(stage, visited)
        if cycle:
            message = f"circular dependency detected on stage: {stage.display_name}"
            raise DockerfileError(message, cycle[0].location)


def _find_cycle(start: StageBuild, visited: set[StageBuild]) -> list[Instruction]:
    """The instructions that lead from `start` into a cycle; without recursion, as chains may be long."""
    if start in visited:
        return []
    visited.add(start)
    path = {start}
    way: list[Instruction] = []
    pending = [(start, iter(start.deps.items()))]
    while pending:
        stage, deps = pending[-1]
        for dep, instruction in deps:
            if dep in path:
                return [*way, instruction]
            if dep not in visited:
                visited.add(dep)
                path.add(dep)
                way.append(instruction)
                pending.append((dep, iter(dep.deps.items())))
                break
        else:
            pending.pop()
            path.discard(stage)
            if way:
                way.pop()
    return []


def reachable(target: StageBuild) -> set[StageBuild]:
    """The target and all stages that it needs, directly or not."""
    found: set[StageBuild] = set()
    pending = [target]
    while pending:
        stage = pending.pop()
        if stage in found:
            continue
        found.add(stage)
        pending += stage.deps
        if stage.base is not None:
            pending.append(stage.base)
    return found
