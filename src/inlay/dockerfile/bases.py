"""What stages begin with: their platform, and the image, context or stage that their FROM names.

BuildKit: frontend/dockerfile/dockerfile2llb/convert.go, `buildDispatchStates` to `resolveBaseImage`.
"""

from __future__ import annotations

from inlay.dockerfile import instructions as ins
from inlay.dockerfile.contexts import find_named_context
from inlay.dockerfile.drafts import SourceDraft
from inlay.dockerfile.image import Image
from inlay.dockerfile.linter import Linter
from inlay.dockerfile.parser import parse
from inlay.dockerfile.resolver import ImageRequest
from inlay.dockerfile.scope import step_name
from inlay.dockerfile.shell import ExpansionError
from inlay.dockerfile.stages import SCRATCH, StageBuild, reachable
from inlay.dockerfile.state import State
from inlay.dockerfile.suggest import suggest
from inlay.errors import DockerfileError, InlayError, UsageError
from inlay.golang.text import quote, valid
from inlay.llb.graph import Notes
from inlay.platform import format_platform, normalise
from inlay.platform import parse as parse_platform
from inlay.reference import parse as parse_reference
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inlay.dockerfile.conversion import Conversion
    from inlay.dockerfile.instructions import Instruction, Stage
    from inlay.dockerfile.linter import Linter as LinterType
    from inlay.dockerfile.outlines import OutlineArg
    from inlay.dockerfile.resolver import ResolvedImage
    from inlay.dockerfile.shell import Expansion
    from inlay.platform import Platform

_MOST_ROUNDS = 100
"""How often ONBUILD may bring images whose ONBUILD brings further images."""
_COUNTED = (ins.Run, ins.Copy, ins.Add, ins.Workdir)
_COMMON_IMAGES = ("alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora")


def add_stage(conversion: Conversion, index: int, stage: Stage, outline: Mapping[str, OutlineArg]) -> None:
    """Expand a stage's FROM and add it. Raises `DockerfileError` at its location."""
    linter = conversion.linter.for_comments(stage.comments)
    name = _expand(conversion, stage.base, stage, outline, linter)
    if not name.text:
        raise DockerfileError(f"base name ({stage.base}) should not be blank", stage.location)
    build = StageBuild(name.text, stage)
    build.outline.arguments.update(outline)
    used = name.matched
    if stage.platform:
        platform = _expand(conversion, stage.platform, stage, outline, linter)
        _check_platform_flag(conversion, stage, platform, linter)
        build.platform = _read_platform(conversion, stage, platform)
        used |= platform.matched
    if stage.stage_name:
        build.named_context = find_named_context(
            conversion.options, stage.stage_name, build.platform or conversion.target, build.paths
        )
        if build.named_context is not None:
            conversion.stages.add(build)
            build.base = None
            return
    else:
        build.display_name = f"stage-{index}"
    conversion.stages.add(build)
    build.outline.used |= used
    build.step_count = int(build.base_name != SCRATCH and build.base is None)
    build.step_count += sum(isinstance(each, _COUNTED) for each in stage.instructions)
    build.ignore_cache = _ignores_cache(conversion.options.no_cache, stage.stage_name)


def _expand(
    conversion: Conversion,
    word: str,
    stage: Stage,
    outline: Mapping[str, OutlineArg],
    linter: LinterType,
) -> Expansion:
    """Expand a word of FROM; only global ARGs count, and warn of others."""
    try:
        expansion = conversion.lexer.expand(word, conversion.global_args)
    except ExpansionError as error:
        _warn_undeclared(conversion, error.unmatched, stage, outline, linter)
        # BuildKit names what the platform expanded to, which is nothing by now.
        what = "" if word is stage.base else "failed to process arguments for platform : "
        raise DockerfileError(what + error.message, stage.location) from None
    _warn_undeclared(conversion, expansion.unmatched, stage, outline, linter)
    return expansion


def _warn_undeclared(
    conversion: Conversion,
    names: frozenset[str],
    stage: Stage,
    outline: Mapping[str, OutlineArg],
    linter: LinterType,
) -> None:
    if not names:
        return
    declared = {*conversion.global_args, *outline}
    for name in sorted(names):
        if name not in declared:
            near = conversion.suggest(name, declared)
            message = f"FROM argument '{name}' is not declared" + (f" (did you mean {near}?)" if near else "")
            linter.warn("UndefinedArgInFrom", message, stage.location)


def _check_platform_flag(
    conversion: Conversion, stage: Stage, platform: Expansion, linter: LinterType
) -> None:
    if platform.matched or platform.unmatched:
        is_target = platform.text == conversion.global_args["TARGETPLATFORM"]
        if is_target and platform.matched == {"TARGETPLATFORM"} and not platform.unmatched:
            message = (
                f"Setting platform to predefined {stage.platform} in FROM is redundant "
                "as this is the default behavior"
            )
            linter.warn("RedundantTargetPlatform", message, stage.location)
        return
    try:
        parsed = parse_platform(platform.text)
    except UsageError:
        return
    if parsed.os not in stage.stage_name and parsed.architecture not in stage.stage_name:
        message = f"FROM --platform flag should not use constant value {quote(platform.text)}"
        linter.warn("FromPlatformFlagConstDisallowed", message, stage.location)


def _read_platform(conversion: Conversion, stage: Stage, expansion: Expansion) -> Platform:
    if expansion.text:
        try:
            return parse_platform(expansion.text)
        except UsageError as error:
            message = f"failed to parse platform {stage.platform}: {error}"
    else:
        message = f"empty platform value from expression {stage.platform}"
    near = (suggest(name, conversion.global_args) for name in sorted(expansion.unmatched))
    raise DockerfileError(message, stage.location, hint=next(filter(None, near), ""))


def _ignores_cache(no_cache: tuple[str, ...] | None, name: str) -> bool:
    if no_cache is None:
        return False
    return not no_cache or name.lower() in [each.lower() for each in no_cache]


def resolve_bases(conversion: Conversion) -> set[StageBuild]:
    """Look up the bases of all stages that the target needs, until ONBUILD brings no new ones."""
    for _ in range(_MOST_ROUNDS):
        needed = reachable(conversion.target_stage)
        unresolved = [stage for stage in conversion.stages.stages if _is_unresolved(stage)]
        wanted = [stage for stage in unresolved if conversion.options.all_stages or stage in needed]
        conversion.resolver.prefetch(list(_requests(conversion, wanted)))
        for stage in unresolved:
            stage.resolved = conversion.options.all_stages or stage in needed
            _resolve_base(conversion, stage, needed=stage.resolved)
        order = [stage for stage in conversion.stages.stages if stage in needed]
        needs_more = [_add_triggers(conversion, stage) for stage in order]
        if not any(needs_more):
            return needed
    # BuildKit goes on for ever.
    raise DockerfileError("ONBUILD of an image needs an image with the same ONBUILD, and so on")


def requests(conversion: Conversion) -> Iterator[ImageRequest]:
    """The images that `resolve_bases` will ask for first."""
    needed = reachable(conversion.target_stage)
    all_stages = conversion.options.all_stages
    stages = [stage for stage in conversion.stages.stages if all_stages or stage in needed]
    return _requests(conversion, [stage for stage in stages if _is_unresolved(stage)])


def _is_unresolved(stage: StageBuild) -> bool:
    return stage.base is None and not stage.dispatched and not stage.resolved


def _requests(conversion: Conversion, stages: list[StageBuild]) -> Iterator[ImageRequest]:
    seen: set[ImageRequest] = set()
    for stage in stages:
        if stage.base_name == SCRATCH and stage.named_context is None:
            continue
        try:
            request = _request(conversion, stage)
        except (DockerfileError, UsageError):
            continue  # `_resolve_base` tells of it.
        if request is not None and request not in seen:
            seen.add(request)
            yield request


def _request(conversion: Conversion, stage: StageBuild) -> ImageRequest | None:
    """The image that a stage begins with, or that its named context is."""
    options = conversion.options
    name = str(parse_reference(stage.base_name).with_default_tag())
    platform = stage.platform or conversion.target_platform
    context = stage.named_context or find_named_context(options, name, platform, stage.paths)
    if context is not None:
        return context.request(options)
    prefix = f"{format_platform(platform)} " if options.multi_platform else ""
    log_name = f"[{prefix}internal] load metadata for {name}"
    return ImageRequest(name, platform, options.resolve_mode, log_name=log_name)


def _resolve_base(conversion: Conversion, stage: StageBuild, *, needed: bool) -> None:
    if stage.base_name == SCRATCH and stage.named_context is None:
        stage.state = State()
        stage.image = Image.empty(conversion.target_platform)
        stage.platform = conversion.target_platform
        stage.dispatched |= stage.hidden
        return
    try:
        _resolve_image(conversion, stage, needed=needed)
    except DockerfileError as error:
        error.location = error.location or stage.location
        raise
    stage.dispatched |= stage.hidden


def _resolve_image(conversion: Conversion, stage: StageBuild, *, needed: bool) -> None:
    written = stage.base_name
    try:
        reference = parse_reference(written)
    except UsageError as error:
        raise DockerfileError(f"failed to parse stage name {quote(written)}: {error}") from None
    platform = stage.platform or conversion.target_platform
    stage.base_name = str(reference.with_default_tag())
    is_empty = False
    if needed:
        if _take_context(conversion, stage, platform):
            return
        resolved = _look_up(conversion, stage, written)
        try:
            stage.image = Image.parse(resolved.config)
        except ValueError as error:
            raise DockerfileError(f"failed to parse image config: {error}") from None
        stage.base_image = stage.image.copy()
        stage.image.created = ""
        if stage.platform is None and conversion.implicit_target:
            platform = _detected(stage.image.platform, platform, conversion.options.build_platform)
        stage.base_name = str(reference.with_default_tag()._replace(digest=resolved.digest))
        is_empty = not stage.image.has_layers
    stage.platform = platform
    if is_empty:
        stage.state = State()
        return
    stage.state = State(_image_source(conversion, stage, platform), platform)
    if needed:
        _check_base_platform(conversion, stage, written, platform)


def _take_context(conversion: Conversion, stage: StageBuild, platform: Platform) -> bool:
    """Begin with a named context, if there is one for the stage or its base."""
    options, resolver = conversion.options, conversion.resolver
    if stage.named_context is not None:
        loaded = stage.named_context.load(options, resolver)
        stage.dispatched = True
        stage.state = loaded.state
        if loaded.image is not None:
            stage.image = loaded.image
            if loaded.image.platform.architecture and loaded.image.platform.os:
                stage.platform = loaded.image.platform
        return True
    context = find_named_context(options, stage.base_name, platform, stage.paths)
    if context is None:
        return False
    loaded = context.load(options, resolver)
    stage.image = loaded.image or Image.empty(platform)
    stage.base_image = stage.image.copy()
    stage.image.created = ""
    stage.state = loaded.state
    stage.state.platform = normalise(platform)
    stage.platform = platform
    return True


def _look_up(conversion: Conversion, stage: StageBuild, written: str) -> ResolvedImage:
    request = _request(conversion, stage)
    assert request is not None
    try:
        return conversion.resolver.resolve(request)
    except InlayError as error:
        names = conversion.stages.names() + [
            form
            for name in _COMMON_IMAGES
            for form in (
                name,
                f"docker.io/library{name}",
                f"{name}:latest",
                f"docker.io/library{name}:latest",
            )
        ]
        said = str(error) if str(error).startswith(f"{written}: ") else f"{written}: {error}"
        raise DockerfileError(said, hint=suggest(written, names)) from error


def _detected(image: Platform, target: Platform, build: Platform) -> Platform:
    """The platform to build for where none was asked for: another one that the image is for, if it runs here."""
    if (target.os, target.architecture) == (image.os, image.architecture):
        return target
    return build if (build.os, build.architecture) == (image.os, image.architecture) else target


def _image_source(conversion: Conversion, stage: StageBuild, platform: Platform) -> SourceDraft:
    options = conversion.options
    source = valid(stage.stage.source) if stage.stage else ""
    text = f"FROM {stage.base_name}"
    notes = Notes(
        step_name(stage, text, platform, {}, multi=options.multi_platform),
        (("com.docker.dockerfile.v1.command", source),),
        stage.location,
    )
    attrs = {} if options.resolve_mode == "default" else {"image.resolvemode": options.resolve_mode}
    return SourceDraft(f"docker-image://{stage.base_name}", attrs, notes, platform)


def _check_base_platform(conversion: Conversion, stage: StageBuild, written: str, expected: Platform) -> None:
    actual = stage.image.platform
    if (expected.os, expected.architecture) == (actual.os, actual.architecture):
        return
    message = (
        f"Base image {written} was pulled with platform {quote(format_platform(normalise(actual)))}, "
        f"expected {quote(format_platform(normalise(expected)))} for current build"
    )
    conversion.linter.warn("InvalidBaseImagePlatform", message, stage.location)


def _add_triggers(conversion: Conversion, stage: StageBuild) -> bool:
    """Put ONBUILD's instructions before the stage's; return whether they need stages not yet looked at."""
    stage.inherit()
    triggers = list(stage.image.on_build)
    if stage.base is not None and not stage.triggers_known:
        steps = [step.instruction for step in stage.base.steps]
        triggers += [instruction.text for instruction in steps if isinstance(instruction, ins.OnBuild)]
        stage.triggers_known = True
    if not triggers:
        return False
    try:
        instructions = [_read_trigger(stage, trigger) for trigger in triggers]
        needs_more = conversion.stages.prepend_triggers(stage, instructions, conversion.lexer)
    except DockerfileError as error:
        error.location = stage.location
        raise
    stage.image.on_build = []
    return needs_more


def _read_trigger(stage: StageBuild, trigger: str) -> Instruction:
    """One instruction of ONBUILD; its place is the FROM that brought it."""
    nodes = parse(trigger.encode(errors="surrogateescape")).instructions
    if len(nodes) != 1:
        raise DockerfileError("onbuild trigger should be a single expression")
    assert stage.location is not None
    instruction = ins.read_instruction(nodes[0], Linter.silent(), stage.location)
    if isinstance(instruction, ins.Stage):
        raise DockerfileError("*instructions.Stage is not a command type")
    return instruction
