"""Instructions that change the image config and nothing else, and WORKDIR.

BuildKit: frontend/dockerfile/dockerfile2llb/convert.go and convert_expose.go, `dispatch…`.
"""

from __future__ import annotations

from inlay.dockerfile.copy import read_owner
from inlay.dockerfile.drafts import FileDraft
from inlay.dockerfile.literals import format_duration, is_signal
from inlay.dockerfile.outlines import OutlineArg
from inlay.dockerfile.paths import is_absolute, normalise_workdir, to_slash
from inlay.dockerfile.run import with_shell
from inlay.dockerfile.scope import NOT_IN_ENV
from inlay.golang.patterns import clean, join
from inlay.golang.text import quote
from inlay.llb.graph import Notes
from inlay.llb.ops import MakeDirectory
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.dockerfile import instructions as ins
    from inlay.dockerfile.scope import Scope
    from inlay.dockerfile.stages import StageBuild
    from inlay.errors import Location


def maintainer(scope: Scope, instruction: ins.Maintainer) -> None:
    scope.stage.image.author = instruction.text
    scope.commit(f"MAINTAINER {instruction.text}")


def env(scope: Scope, instruction: ins.Env) -> None:
    # All values see the variables as they were before the instruction.
    pairs = [(scope.expand(each.name), scope.expand(each.value)) for each in instruction.variables]
    for (name, value), variable in zip(pairs, instruction.variables, strict=True):
        if variable.legacy:
            _warn_legacy(scope)
        warn_of_secret("ENV", name, scope)
        scope.stage.state.set_env(name, value)
        scope.stage.image.set_env(name, value)
    scope.commit(" ".join(["ENV", *[f"{name}={value}" for name, value in pairs]]))


def label(scope: Scope, instruction: ins.Label) -> None:
    pairs = [(scope.expand(each.name), scope.expand(each.value)) for each in instruction.labels]
    for (name, value), each in zip(pairs, instruction.labels, strict=True):
        if each.legacy:
            _warn_legacy(scope)
        scope.stage.image.labels[name] = value
    scope.commit(" ".join(["LABEL", *[f"{name}={value}" for name, value in pairs]]))


def _warn_legacy(scope: Scope) -> None:
    name = scope.step.instruction.name
    message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
    scope.linter.warn("LegacyKeyValueFormat", message, scope.location)


def on_build(scope: Scope, instruction: ins.OnBuild) -> None:
    scope.stage.image.on_build.append(instruction.text)


def cmd(scope: Scope, instruction: ins.Cmd) -> None:
    scope.stage.cmd = _only_once(scope, scope.stage.cmd)
    image = scope.stage.image
    image.cmd = _command_line(scope, instruction)
    image.args_escaped = True
    scope.commit(f"CMD {_quoted_list(image.cmd)}")


def entrypoint(scope: Scope, instruction: ins.Entrypoint) -> None:
    scope.stage.entrypoint = _only_once(scope, scope.stage.entrypoint)
    image = scope.stage.image
    image.entrypoint = _command_line(scope, instruction)
    if scope.stage.cmd is None:
        image.cmd = []
    scope.commit(f"ENTRYPOINT {_quoted_list(image.entrypoint)}")


def _command_line(scope: Scope, instruction: ins.Command) -> list[str]:
    if not instruction.shell:
        return list(instruction.arguments)
    if not scope.stage.image.shell:
        message = (
            f"JSON arguments recommended for {instruction.name} to prevent unintended behavior "
            "related to OS signals"
        )
        scope.linter.warn("JSONArgsRecommended", message, scope.location)
    return list(with_shell(scope.stage, instruction.arguments))


def _quoted_list(words: Sequence[str]) -> str:
    """Go's `%q` of a list."""
    return f"[{' '.join(map(quote, words))}]"


def _only_once(scope: Scope, before: Location | None) -> Location:
    """Warn, at the earlier one, of an instruction that overrides it."""
    if before is not None:
        message = (
            f"Multiple {scope.step.instruction.name} instructions should not be used in the same stage "
            "because only the last one will be used"
        )
        scope.linter.warn("MultipleInstructionsDisallowed", message, before)
    return scope.location


def health_check(scope: Scope, instruction: ins.HealthCheck) -> None:
    scope.stage.healthcheck = _only_once(scope, scope.stage.healthcheck)
    check = scope.stage.image.healthcheck = instruction.check
    times = " ".join(
        f"{name}:{format_duration(check.get(name, 0))}"
        for name in ("Interval", "Timeout", "StartPeriod", "StartInterval")
    )
    test = " ".join(check["Test"])
    scope.commit(f"HEALTHCHECK {{Test:[{test}] {times} Retries:{check.get('Retries', 0)}}}")


def user(scope: Scope, instruction: ins.User) -> None:
    name = scope.expand(instruction.text)
    set_user(scope.stage, name)
    scope.commit(f"USER {name}")


def set_user(stage: StageBuild, name: str) -> None:
    stage.state.user = stage.image.user = name


def volume(scope: Scope, instruction: ins.Volume) -> None:
    volumes = [scope.expand(word) for word in instruction.words]
    for path in volumes:
        if not path:
            raise ValueError("VOLUME specified can not be an empty string")
        scope.stage.image.volumes[path] = {}
    scope.commit(f"VOLUME [{' '.join(volumes)}]")


def stop_signal(scope: Scope, instruction: ins.StopSignal) -> None:
    signal = scope.expand(instruction.text)
    if not is_signal(signal):
        raise ValueError(f"invalid signal: {signal}")
    scope.stage.image.stop_signal = signal
    scope.commit(f"STOPSIGNAL {signal}")


def shell(scope: Scope, instruction: ins.Shell) -> None:
    scope.stage.image.shell = list(instruction.words)
    scope.commit(f"SHELL [{' '.join(instruction.words)}]")


def arg(scope: Scope, instruction: ins.Arg) -> None:
    conversion, stage = scope.conversion, scope.stage
    shown = []
    for definition in instruction.definitions:
        name, value = definition.name, definition.default
        warn_of_secret("ARG", name, scope)
        given = conversion.build_args.get(name)
        inherited = conversion.global_args.get(name) if value is None and given is None else None
        if given is not None:
            value = given
        elif inherited is not None:
            value = inherited
        elif value is not None:
            value = scope.expand(value)
        if value is not None and name not in NOT_IN_ENV:
            stage.state.set_env(name, value)
        if inherited is None:
            stage.outline.arguments[name] = OutlineArg(
                name, value or "", definition.description, scope.location
            )
        stage.outline.used.add(name)
        stage.arguments.append(definition._replace(default=value))
        shown.append(name if value is None else f"{name}={value}")
    scope.commit("ARG " + " ".join(shown))


def workdir(scope: Scope, instruction: ins.Workdir) -> None:
    stage = scope.stage
    path = scope.expand(instruction.text)
    if not stage.workdir_set and not is_absolute(path, scope.os):
        message = f"Relative workdir {quote(path)} can have unexpected results if the base image changes"
        scope.linter.warn("WorkdirRelativePath", message, scope.location)
    stage.workdir_set = True
    directory = set_workdir(stage, path)
    if directory != "/":
        made = MakeDirectory(
            join("/", clean(directory)),
            0o755,
            make_parents=True,
            owner=read_owner(stage.image.user) if stage.image.user else None,
            timestamp=-1 if scope.conversion.epoch is None else scope.conversion.epoch * 10**9,
        )
        notes = Notes(scope.step_name(scope.command_text()), location=scope.location)
        stage.state.root = FileDraft(stage.state.root, [(made, None)], notes)
    scope.commit(f"WORKDIR {directory}", layer=directory != "/")


def set_workdir(stage: StageBuild, path: str) -> str:
    """Change the working directory of image and stage; return it with slashes."""
    os = stage.platform.os if stage.platform else ""
    try:
        directory = normalise_workdir(stage.image.working_dir, path, os)
    except ValueError as error:
        raise ValueError(f"normalizing workdir: {error}") from None
    stage.image.working_dir = directory
    directory = to_slash(directory, os)
    stage.state.change_directory(directory)
    return directory


_SECRETS = frozenset(
    ("apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token")
)
_NO_SECRETS = frozenset(("public", "file", "version"))


def warn_of_secret(instruction: str, name: str, scope: Scope) -> None:
    """Warn of a name that has a word such as `password` in it, and none that takes it back."""
    # A long s folds to an s in Go's regular expressions.
    words = set(name.lower().replace("\u017f", "s").split("_"))
    if words & _SECRETS and not words & _NO_SECRETS:
        message = f"Do not use ARG or ENV instructions for sensitive data ({instruction} {quote(name)})"
        scope.linter.warn("SecretsUsedInArgOrEnv", message, scope.location)
