"""SOURCE_DATE_EPOCH: a number, or the time of the build context, a named context or a stage's only ADD.

BuildKit: frontend/dockerfile/dockerfile2llb/epoch.go.
"""

from __future__ import annotations

from inlay.dockerfile import instructions as ins
from inlay.dockerfile.contexts import find_context_by_name, main_context
from inlay.dockerfile.drafts import SourceDraft, settle
from inlay.dockerfile.literals import check_digest, parse_int
from inlay.dockerfile.sources import git_source, git_url, http_file_name, http_source
from inlay.dockerfile.stages import SCRATCH
from inlay.errors import DockerfileError
from inlay.llb.graph import NO_NOTES
from inlay.llb.ops import SourceOp
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inlay.dockerfile.conversion import Conversion
    from inlay.dockerfile.drafts import Draft
    from inlay.dockerfile.instructions import Stage

_NAME = "SOURCE_DATE_EPOCH"
_ONLY_ADD = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"


def resolve_epoch(conversion: Conversion, stages: Sequence[Stage]) -> int | None:
    """The seconds since 1970 that the build is to seem made at. The ARG becomes that number, or goes."""
    text = conversion.build_args.get(_NAME)
    if text is None:
        text = conversion.global_args.get(_NAME, "")
        if not text:
            return None
    epoch = _seconds(conversion, text, stages) if text else None
    for arguments in (conversion.build_args, conversion.global_args):
        if _NAME in arguments:
            del arguments[_NAME]
            if epoch is not None:
                arguments[_NAME] = str(epoch)
    return epoch


def format_time(seconds: int) -> str:
    """RFC 3339, in UTC."""
    from datetime import UTC, datetime, timedelta

    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        raise DockerfileError(f"invalid {_NAME}: {seconds} lies outside of the years 1 to 9999") from None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def _seconds(conversion: Conversion, text: str, stages: Sequence[Stage]) -> int | None:
    try:
        return parse_int(text)
    except ValueError:
        tree = _tree(conversion, text, stages)
    op = _only_source(conversion, tree)
    if op is None or op.scheme not in ("git", "http", "https"):
        return None
    return conversion.resolver.time_of(op)


def _tree(conversion: Conversion, name: str, stages: Sequence[Stage]) -> Draft | None:
    """The tree whose time counts. Raises `DockerfileError` where `name` is none."""
    options, resolver = conversion.options, conversion.resolver
    if name == "context":
        return main_context(options, resolver, tuple).tree
    context = find_context_by_name(options, name, None, None)
    if context is not None:
        return context.load(options, resolver).state.root
    for stage in stages:
        if stage.stage_name.lower() == name.lower():
            try:
                return _stage_source(conversion, stage)
            except DockerfileError as error:
                error.location = stage.location
                raise
            except ValueError as error:
                raise DockerfileError(str(error), stage.location) from None
    raise DockerfileError(f"invalid {_NAME}: {name}")


def _only_source(conversion: Conversion, tree: Draft | None) -> SourceOp | None:
    """The source that a tree is made of; None where there are several or none."""
    vertices = settle(tree, conversion.target_platform).vertices
    sources = [vertex.op for vertex in vertices if isinstance(vertex.op, SourceOp)]
    return sources[0] if len(sources) == 1 else None


def _stage_source(conversion: Conversion, stage: Stage) -> SourceDraft:
    """The download or checkout of a stage that is `FROM scratch`, ARGs, and one remote ADD."""
    env = {name: value for name, value in conversion.global_args.items() if name != _NAME}
    if conversion.lexer.expand(stage.base, env).text != SCRATCH:
        raise ValueError("SOURCE_DATE_EPOCH stage must use FROM scratch")
    source: SourceDraft | None = None
    for instruction in stage.instructions:
        if isinstance(instruction, ins.Arg):
            _set_arguments(conversion, instruction, env)
        elif not isinstance(instruction, ins.Add):
            raise ValueError(
                "SOURCE_DATE_EPOCH stage does not meet source-only requirements: "
                f"unsupported {instruction.name} instruction"
            )
        elif source is not None:
            raise ValueError(_ONLY_ADD)
        else:
            source = _add_source(conversion, instruction, env)
    if source is None:
        raise ValueError(_ONLY_ADD)
    return source


def _set_arguments(conversion: Conversion, arg: ins.Arg, env: dict[str, str]) -> None:
    for definition in arg.definitions:
        value = conversion.build_args.get(definition.name)
        if value is None and definition.default is not None:
            value = conversion.lexer.expand(definition.default, env).text
        if value is not None:
            env[definition.name] = value


def _add_source(conversion: Conversion, add: ins.Add, env: Mapping[str, str]) -> SourceDraft:
    if add.files or len(add.sources) != 1:
        raise ValueError(f"{_ONLY_ADD} source")
    url = conversion.lexer.expand(add.sources[0], env).text
    checksum = conversion.lexer.expand(add.checksum, env).text
    git = git_url(url)
    if git is not None and not git.is_local:
        keep = bool(add.keep_git_dir) or bool(git.keep_git_dir)
        return git_source(git, NO_NOTES, keep_git_dir=keep, checksum=checksum or git.checksum)
    if git is None and url.startswith(("http://", "https://")):
        if checksum:
            check_digest(checksum)
        return http_source(url, http_file_name(url), NO_NOTES, checksum=checksum)
    raise ValueError("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")
