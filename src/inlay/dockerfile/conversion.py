"""A Dockerfile becomes LLB and an image config, for one platform.

BuildKit: frontend/dockerfile/dockerfile2llb/convert.go.
"""

from __future__ import annotations

from inlay.dockerfile import bases, buildargs, config
from inlay.dockerfile import instructions as ins
from inlay.dockerfile.contexts import main_context
from inlay.dockerfile.copy import Transfer, transfer
from inlay.dockerfile.drafts import settle
from inlay.dockerfile.expose import expose
from inlay.dockerfile.run import run
from inlay.dockerfile.scope import Scope
from inlay.dockerfile.shell import Lexer
from inlay.dockerfile.stages import StageList
from inlay.dockerfile.suggest import suggest
from inlay.errors import DockerfileError, UsageError
from inlay.golang.patterns import PatternMatcher, join
from inlay.golang.text import quote
from inlay.platform import DEFAULT_PATH, Platform, format_platform, normalise
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Any

    from inlay.dockerfile.drafts import Draft
    from inlay.dockerfile.image import Image
    from inlay.dockerfile.instructions import Arg, Stage
    from inlay.dockerfile.linter import Linter
    from inlay.dockerfile.options import ConvertOptions
    from inlay.dockerfile.resolver import ImageRequest, Resolver
    from inlay.dockerfile.stages import StageBuild, Step
    from inlay.llb.graph import Definition


_MOST_COMPARISONS = 200_000


class ConvertedPlatform(NamedTuple):
    """What a Dockerfile means for one platform."""

    platform: Platform
    definition: Definition
    image: bytes
    """The image config, without the layers that the build adds."""
    base_image: bytes | None
    """The config of the image that the last stage began with."""
    epoch: int | None
    """SOURCE_DATE_EPOCH in seconds."""
    ignore_cache: bool
    """Whether the target stage must run again."""


class Source(NamedTuple):
    """A Dockerfile, read."""

    stages: Sequence[Stage]
    arguments: Sequence[Arg]
    escape: str


class Conversion:
    """One platform's conversion: `connect`, look up `requests`, `dispatch`, take the `result`."""

    __slots__ = (
        "_comparisons",
        "_context_paths",
        "_groups",
        "_ignored",
        "_source",
        "build_args",
        "build_context",
        "display_lexer",
        "epoch",
        "global_args",
        "implicit_target",
        "lexer",
        "linter",
        "options",
        "proxy_env",
        "resolver",
        "stages",
        "target",
        "target_platform",
        "target_stage",
    )

    def __init__(
        self,
        source: Source,
        options: ConvertOptions,
        resolver: Resolver,
        linter: Linter,
        platform: Platform | None,
    ) -> None:
        """`platform` None is the build's own, and may give way to that of the base image."""
        self._source = source
        self.options = options
        self.resolver = resolver
        self.linter = linter
        self.target = platform
        self.implicit_target = platform is None
        self.target_platform = platform or options.build_platform
        self.lexer = Lexer(source.escape)
        self.display_lexer = Lexer(source.escape, raw_quotes=True, skip_unset=True)
        self.build_args = dict(options.build_args)
        self.global_args: dict[str, str] = {}
        self.epoch: int | None = None
        self.proxy_env = buildargs.proxy_env(options.build_args)
        self.stages = StageList()
        self.target_stage: StageBuild
        self.build_context: Draft
        self._context_paths: set[str] = set()
        self._groups = 0
        self._comparisons = 0
        self._ignored: PatternMatcher | None = None

    @property
    def created(self) -> str:
        """The epoch as history entries have it; empty without one."""
        if self.epoch is None:
            return ""
        from inlay.dockerfile.epoch import format_time

        return format_time(self.epoch)

    def suggest(self, name: str, options: Collection[str]) -> str:
        """Which of `options` a name in a warning may have been meant to be; empty if none.

        After very many comparisons it is always empty: a hostile Dockerfile must not take for ever.
        """
        self._comparisons += len(options)
        return suggest(name, options) if self._comparisons < _MOST_COMPARISONS else ""

    def new_group(self) -> str:
        """An id for a progress group."""
        self._groups += 1
        return f"{format_platform(self.target_platform)}/{self._groups}"

    def connect(self) -> None:
        """Find the stages and what they need of each other. Raises `DockerfileError`."""
        source, options = self._source, self.options
        target = options.target or source.stages[-1].stage_name
        defaults = buildargs.default_arguments(
            options.build_platform, self.target_platform, target, self.build_args
        )
        buildargs.check_default_bases(source.stages, source.arguments, defaults, self.lexer, self.linter)
        self.global_args, outline = buildargs.read_globals(
            defaults, source.arguments, self.build_args, self.lexer
        )
        if "SOURCE_DATE_EPOCH" in self.build_args or "SOURCE_DATE_EPOCH" in self.global_args:
            from inlay.dockerfile.epoch import resolve_epoch

            self.epoch = resolve_epoch(self, source.stages)
        for index, stage in enumerate(source.stages):
            bases.add_stage(self, index, stage, outline)
        self.target_stage = self.stages.target(options.target)
        self.stages.connect(self.lexer)

    def requests(self) -> Iterator[ImageRequest]:
        """The images that `dispatch` will ask for, as far as is known before."""
        return bases.requests(self)

    def dispatch(self) -> None:
        """Look up images and run through the instructions. Raises `DockerfileError`."""
        needed = bases.resolve_bases(self)
        context = main_context(self.options, self.resolver, lambda: self._context_paths)
        self.build_context = context.tree
        if context.excludes:
            try:
                self._ignored = PatternMatcher(context.excludes)
            except UsageError as error:
                raise DockerfileError(str(error)) from None
        for stage in self.stages.stages:
            if self.options.all_stages or (stage in needed and not stage.dispatched):
                self._dispatch_stage(stage)
        self.target_stage.paths.add("/")
        self.linter.check()

    def result(self) -> ConvertedPlatform:
        """Make the ops and the image config of what was dispatched. Raises `DockerfileError`."""
        target, image = self.target_stage, self.target_stage.image
        image.labels.update(self.options.labels)
        image.platform = self._image_platform(image)
        definition = settle(target.state.root, self.target_platform)
        return ConvertedPlatform(
            _export_platform(self.target_platform, image.platform),
            definition,
            image.to_json(),
            target.base_image.to_json() if target.base_image else None,
            self.epoch,
            target.ignore_cache,
        )

    def _image_platform(self, image: Image) -> Platform:
        """The image's platform: the target's, where one was asked for."""
        if self.implicit_target:
            return normalise(image.platform)
        target, own = self.target_platform, image.platform
        same = (target.os, target.architecture) == (own.os, own.architecture)
        return normalise(
            Platform(
                target.os,
                target.architecture,
                target.variant or (own.variant if same else ""),
                target.os_version or (own.os_version if same else ""),
                target.os_features or own.os_features,
            )
        )

    def _dispatch_stage(self, stage: StageBuild) -> None:
        """Run through a stage's instructions."""
        stage.inherit()
        stage.dispatched = True
        has_platform = stage.platform is not None
        if not has_platform:
            # On a named context that is no image, and in lint of stages that nothing needs, BuildKit has the
            # zero platform, and that of the target in stages that begin with this one.
            stage.platform = Platform("", "")
        try:
            self._begin(stage)
        except ValueError as error:
            raise DockerfileError(str(error), stage.location) from None
        for step in stage.steps:
            try:
                self._dispatch_step(stage, step)
            except DockerfileError as error:
                error.location = error.location or step.instruction.location
                raise
            except ValueError as error:
                raise DockerfileError(str(error), step.instruction.location) from None
        if not has_platform:
            stage.platform = self.target_platform
        self._context_paths |= stage.context_paths

    def _begin(self, stage: StageBuild) -> None:
        """Take over the image's variables, working directory and user."""
        image, state = stage.image, stage.state
        os = stage.platform.os if stage.platform else ""
        if os != "windows" and not any(entry.partition("=")[0] == "PATH" for entry in image.env):
            image.set_env("PATH", DEFAULT_PATH)
        for entry in image.env:
            name, _, value = entry.partition("=")
            state.set_env(name, value)
        if self.options.hostname:
            state.hostname = self.options.hostname
        if image.working_dir:
            config.set_workdir(stage, image.working_dir)
        if image.user:
            config.set_user(stage, image.user)
        state.network = self.options.network

    def _dispatch_step(self, stage: StageBuild, step: Step) -> None:
        comments = step.instruction.comments
        linter = self.linter.for_comments(comments) if comments else self.linter
        scope = Scope(self, stage, step, linter)
        instruction = step.instruction
        if isinstance(instruction, ins.Run):
            run(self, scope, instruction)
        elif isinstance(instruction, ins.Copy):
            self._copy(scope, instruction)
        elif isinstance(instruction, ins.Add):
            self._add(scope, instruction)
        else:
            _DISPATCH[type(instruction)](scope, instruction)

    def _copy(self, scope: Scope, copy: ins.Copy) -> None:
        request = self._transfer(scope, copy)._replace(name="COPY", parents=copy.parents)
        used_paths = scope.stage.context_paths
        if scope.step.sources:
            source = scope.step.sources[0]
            if not source.dispatched:
                raise ValueError(
                    f"cannot copy from stage {quote(copy.source_stage)}, it needs to be defined before "
                    f"current stage {quote(scope.stage.display_name)}"
                )
            request = request._replace(tree=source.state.root, ignored=None)
            used_paths = source.paths
        transfer(self, scope, request)
        used_paths.update(join("/", path) for path in request.sources)

    def _add(self, scope: Scope, add: ins.Add) -> None:
        request = self._transfer(scope, add)._replace(keep_git_dir=add.keep_git_dir, unpack=add.unpack)
        transfer(self, scope, request)
        scope.stage.context_paths.update(
            join("/", path) for path in request.sources if not path.startswith(("http://", "https://"))
        )

    def _transfer(self, scope: Scope, instruction: ins.Transfer) -> Transfer:
        """The instruction with its variables expanded, from the build context."""
        chown, chmod = scope.expand(instruction.chown), scope.expand(instruction.chmod)
        checksum = scope.expand(instruction.checksum)
        sources = tuple([scope.expand(source) for source in instruction.sources])
        dest = scope.expand(instruction.dest)
        raw = Lexer("\\", skip_quotes=True)
        files = tuple(
            file._replace(content=scope.expand_with(raw, file.content)) if file.expand else file
            for file in instruction.files
        )
        return Transfer(
            "ADD",
            sources,
            files,
            dest,
            self.build_context,
            chown,
            chmod,
            checksum,
            instruction.excludes,
            instruction.link,
            ignored=self._ignored,
        )


_DISPATCH: dict[type, Callable[[Scope, Any], None]] = {
    ins.Arg: config.arg,
    ins.Cmd: config.cmd,
    ins.Entrypoint: config.entrypoint,
    ins.Env: config.env,
    ins.Expose: expose,
    ins.HealthCheck: config.health_check,
    ins.Label: config.label,
    ins.Maintainer: config.maintainer,
    ins.OnBuild: config.on_build,
    ins.Shell: config.shell,
    ins.StopSignal: config.stop_signal,
    ins.User: config.user,
    ins.Volume: config.volume,
    ins.Workdir: config.workdir,
}


def _export_platform(target: Platform, image: Platform) -> Platform:
    """The platform that the result is filed under; Windows' version comes from the image."""
    target = normalise(target)
    if target.os != "windows" or image.os != "windows":
        return target
    return normalise(
        target._replace(
            os_version=target.os_version or image.os_version,
            os_features=target.os_features or image.os_features,
        )
    )
