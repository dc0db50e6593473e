"""Instructions with a meaning: what each of a Dockerfile's lines says, before variables are expanded.

    stages, arguments = read_stages(parse(text), linter)
    stages[0].instructions[0]  # Run(arguments=("make",), shell=True, …)

BuildKit: frontend/dockerfile/instructions. Errors are `DockerfileError` with a location.
"""

from __future__ import annotations

from inlay.dockerfile.flags import BOOL, LIST, TEXT, Flags
from inlay.dockerfile.literals import format_duration, parse_duration, parse_int
from inlay.dockerfile.parser import chomp_heredoc, parse_heredoc
from inlay.dockerfile.suggest import suggest
from inlay.errors import DockerfileError, Location
from inlay.golang.text import SPACE, quote
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from inlay.dockerfile.linter import Linter
    from inlay.dockerfile.parser import Heredoc, Node, ParseResult


class Instruction:
    """What all instructions have.

    `source` is the instruction on one line, `name` its name as written, `comments` the lines before it.
    """

    __slots__ = ("comments", "location", "name", "source")

    def __init__(self, node: Node, location: Location) -> None:
        self.source = node.original.strip(SPACE)
        self.name = node.value
        self.location = location
        self.comments = node.comments

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={getattr(self, name)!r}" for name in type(self).__slots__)
        return f"{type(self).__name__}({own})"


class Variable(NamedTuple):
    """A name and its value in ENV or LABEL; `legacy` for the form without `=`."""

    name: str
    value: str
    legacy: bool = False


class ArgDefinition(NamedTuple):
    """One name of an ARG; `default` is None where there is none."""

    name: str
    default: str | None = None
    description: str = ""


class InlineFile(NamedTuple):
    """A here-document. COPY and ADD expand its content if `expand`; RUN drops leading tabs if `chomp`."""

    name: str
    content: str
    expand: bool = False
    chomp: bool = False


class Env(Instruction):
    __slots__ = ("variables",)

    def __init__(self, node: Node, location: Location, variables: tuple[Variable, ...]) -> None:
        super().__init__(node, location)
        self.variables = variables


class Label(Instruction):
    __slots__ = ("labels",)

    def __init__(self, node: Node, location: Location, labels: tuple[Variable, ...]) -> None:
        super().__init__(node, location)
        self.labels = labels


class Arg(Instruction):
    __slots__ = ("definitions",)

    def __init__(self, node: Node, location: Location, definitions: tuple[ArgDefinition, ...]) -> None:
        super().__init__(node, location)
        self.definitions = definitions


class TextInstruction(Instruction):
    """An instruction with one text."""

    __slots__ = ("text",)

    def __init__(self, node: Node, location: Location, text: str) -> None:
        super().__init__(node, location)
        self.text = text


class Maintainer(TextInstruction):
    __slots__ = ()


class Workdir(TextInstruction):
    __slots__ = ()


class User(TextInstruction):
    __slots__ = ()


class StopSignal(TextInstruction):
    __slots__ = ()


class OnBuild(TextInstruction):
    """`text` is the instruction to run in builds upon this image."""

    __slots__ = ()


class ListInstruction(Instruction):
    """An instruction with words."""

    __slots__ = ("words",)

    def __init__(self, node: Node, location: Location, words: tuple[str, ...]) -> None:
        super().__init__(node, location)
        self.words = words


class Expose(ListInstruction):
    __slots__ = ()


class Volume(ListInstruction):
    __slots__ = ()


class Shell(ListInstruction):
    __slots__ = ()


class Command(Instruction):
    """A command line: words, or with `shell` one text for the shell."""

    __slots__ = ("arguments", "shell")

    def __init__(self, node: Node, location: Location, arguments: tuple[str, ...]) -> None:
        super().__init__(node, location)
        self.arguments = arguments
        self.shell = not node.is_json


class Cmd(Command):
    __slots__ = ()


class Entrypoint(Command):
    __slots__ = ()


class Run(Command):
    """RUN. `mounts` are the texts of `--mount`, read when their variables are known; `sources` their `from`."""

    __slots__ = ("devices", "files", "mounts", "network", "security", "sources")

    def __init__(self, node: Node, location: Location, flags: Flags, files: tuple[InlineFile, ...]) -> None:
        super().__init__(node, location, _command_line(node))
        self.files = files
        self.devices = flags.texts("device")
        self.mounts = flags.texts("mount")
        self.network = flags.text("network", "default")
        self.security = flags.text("security", "sandbox")
        self.sources: tuple[str, ...] = ()
        if self.devices or self.mounts:
            from inlay.dockerfile.mounts import check_device, check_mount

            for device in self.devices:
                check_device(device)
            self.sources = tuple(check_mount(mount) for mount in self.mounts)


class HealthCheck(Instruction):
    """`check` has the fields of the image config; durations are in nanoseconds."""

    __slots__ = ("check",)

    def __init__(self, node: Node, location: Location, check: dict[str, Any]) -> None:
        super().__init__(node, location)
        self.check = check


class Transfer(Instruction):
    """COPY or ADD: `sources` are paths and URLs, `files` here-documents."""

    __slots__ = ("checksum", "chmod", "chown", "dest", "excludes", "files", "link", "sources")

    def __init__(self, node: Node, location: Location, flags: Flags) -> None:
        super().__init__(node, location)
        self.sources, self.files, self.dest = _sources_and_dest(node)
        self.chown = flags.text("chown")
        self.chmod = flags.text("chmod")
        self.checksum = flags.text("checksum")
        self.link = flags.is_true("link")
        self.excludes = flags.texts("exclude")


class Copy(Transfer):
    __slots__ = ("parents", "source_stage")

    def __init__(self, node: Node, location: Location, flags: Flags) -> None:
        super().__init__(node, location, flags)
        self.source_stage = flags.text("from")
        self.parents = flags.is_true("parents")


class Add(Transfer):
    __slots__ = ("keep_git_dir", "unpack")

    def __init__(self, node: Node, location: Location, flags: Flags) -> None:
        super().__init__(node, location, flags)
        self.keep_git_dir = flags.maybe("keep-git-dir")
        self.unpack = flags.maybe("unpack")


class Stage(Instruction):
    """A FROM and the instructions after it. `stage_name` is in lower case, empty where there is none."""

    __slots__ = ("base", "description", "instructions", "platform", "stage_name")

    def __init__(self, node: Node, location: Location, stage_name: str, platform: str) -> None:
        super().__init__(node, location)
        self.base = node.arguments[0]
        self.stage_name = stage_name
        self.platform = platform
        self.description = _description(node.comments, stage_name)
        self.instructions: list[Instruction] = []


def read_stages(
    parsed: ParseResult, linter: Linter, filename: str = "Dockerfile"
) -> tuple[list[Stage], list[Arg]]:
    """The stages of a Dockerfile, and the ARGs before the first one."""
    stages: list[Stage] = []
    arguments: list[Arg] = []
    for node in parsed.instructions:
        location = Location(filename, node.first_line, node.last_line)
        try:
            instruction = read_instruction(node, linter, location)
        except DockerfileError as error:
            message = f"dockerfile parse error on line {node.first_line}: {error.message}"
            raise DockerfileError(message, location, hint=error.hint) from None
        if isinstance(instruction, Stage):
            stages.append(instruction)
        elif stages:
            stages[-1].instructions.append(instruction)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise DockerfileError("no build stage in current context", location)
    return stages, arguments


def read_instruction(node: Node, linter: Linter, location: Location) -> Instruction:
    """Understand one node. The errors have no location."""
    reader = _READERS.get(node.name)
    if reader is None:
        names = [name.upper() for name in _READERS]
        hint = suggest(node.value, names, case_sensitive=False)
        raise DockerfileError(f"unknown instruction: {node.value}", hint=hint)
    return reader(node, linter.for_comments(node.comments) if node.comments else linter, location)


def _flags(node: Node, known: dict[str, int]) -> Flags:
    return Flags(node.flags, known)


def _at_least_one(node: Node, name: str) -> None:
    if not node.arguments:
        raise DockerfileError(f"{name} requires at least one argument")


def _variables(node: Node, name: str) -> tuple[Variable, ...]:
    _flags(node, {})
    _at_least_one(node, name)
    words = node.arguments
    variables = [Variable(words[at], words[at + 1], not words[at + 2]) for at in range(0, len(words), 3)]
    if not all(variable.name for variable in variables):
        raise DockerfileError(f"{name} names can not be blank")
    return tuple(variables)


def _env(node: Node, _linter: Linter, location: Location) -> Env:
    return Env(node, location, _variables(node, "ENV"))


def _label(node: Node, _linter: Linter, location: Location) -> Label:
    return Label(node, location, _variables(node, "LABEL"))


def _one_text(node: Node, name: str, *, flags: bool = True) -> str:
    if len(node.arguments) != 1:
        raise DockerfileError(f"{name} requires exactly one argument")
    if flags:
        _flags(node, {})
    return node.arguments[0]


def _maintainer(node: Node, linter: Linter, location: Location) -> Maintainer:
    message = "Maintainer instruction is deprecated in favor of using label"
    linter.warn("MaintainerDeprecated", message, location)
    return Maintainer(node, location, _one_text(node, "MAINTAINER"))


def _workdir(node: Node, _linter: Linter, location: Location) -> Workdir:
    return Workdir(node, location, _one_text(node, "WORKDIR"))


def _user(node: Node, _linter: Linter, location: Location) -> User:
    return User(node, location, _one_text(node, "USER"))


def _stop_signal(node: Node, _linter: Linter, location: Location) -> StopSignal:
    return StopSignal(node, location, _one_text(node, "STOPSIGNAL", flags=False))


def _expose(node: Node, _linter: Linter, location: Location) -> Expose:
    _at_least_one(node, "EXPOSE")
    _flags(node, {})
    ports = sorted(node.arguments, key=lambda port: port.encode(errors="surrogateescape"))
    return Expose(node, location, tuple(ports))


def _volume(node: Node, _linter: Linter, location: Location) -> Volume:
    _at_least_one(node, "VOLUME")
    _flags(node, {})
    volumes = tuple(word.strip(SPACE) for word in node.arguments)
    if not all(volumes):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return Volume(node, location, volumes)


def _shell(node: Node, _linter: Linter, location: Location) -> Shell:
    _flags(node, {})
    _at_least_one(node, "SHELL")
    if not node.is_json:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    return Shell(node, location, node.arguments)


def _arg(node: Node, linter: Linter, location: Location) -> Arg:
    _at_least_one(node, "ARG")
    definitions = []
    for word in node.arguments:
        name, equals, default = word.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank")
        value = default if equals else None
        definitions.append(ArgDefinition(name, value, _description(node.comments, name)))
    _check_description("ARG", [definition.name for definition in definitions], node, linter, location)
    return Arg(node, location, tuple(definitions))


def _on_build(node: Node, _linter: Linter, location: Location) -> OnBuild:
    if node.child is None:
        raise DockerfileError("ONBUILD requires at least one argument")
    _flags(node, {})
    trigger = node.child.value.strip(SPACE).upper()
    if trigger == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise DockerfileError(f"{trigger} isn't allowed as an ONBUILD trigger")
    blanks = "\t\n\f\r "
    text = node.original.lstrip(blanks)
    text = text[7:].lstrip(blanks) if text[:7].lower() == "onbuild" else node.original
    bodies = [f"\n{heredoc.content}{heredoc.name}" for heredoc in node.heredocs]
    return OnBuild(node, location, "".join([text, *bodies]))


def _command_line(node: Node) -> tuple[str, ...]:
    if not node.arguments or node.is_json:
        return node.arguments
    return (" ".join(node.arguments),)


_RUN_FLAGS = {"mount": LIST, "network": TEXT, "security": TEXT, "device": LIST}


def _run(node: Node, _linter: Linter, location: Location) -> Run:
    flags = _flags(node, _RUN_FLAGS)
    files = tuple(InlineFile(heredoc.name, heredoc.content, chomp=heredoc.chomp) for heredoc in node.heredocs)
    run = Run(node, location, flags, files)
    if run.network not in ("default", "none", "host"):
        raise DockerfileError(f"invalid network mode {quote(run.network)}")
    if run.security not in ("sandbox", "insecure"):
        raise DockerfileError(f"security {quote(run.security)} is not valid")
    return run


def _cmd(node: Node, _linter: Linter, location: Location) -> Cmd:
    _flags(node, {})
    return Cmd(node, location, _command_line(node))


def _entrypoint(node: Node, _linter: Linter, location: Location) -> Entrypoint:
    _flags(node, {})
    return Entrypoint(node, location, _command_line(node))


_CHECK_FLAGS = dict.fromkeys(("interval", "timeout", "start-period", "start-interval", "retries"), TEXT)


def _health_check(node: Node, _linter: Linter, location: Location) -> HealthCheck:
    _at_least_one(node, "HEALTHCHECK")
    kind, words = node.arguments[0].upper(), node.arguments[1:]
    if kind == "NONE":
        if words:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return HealthCheck(node, location, {"Test": [kind]})
    flags = _flags(node, _CHECK_FLAGS)
    if kind != "CMD":
        raise DockerfileError(f"Unknown type {quote(kind)} in HEALTHCHECK (try CMD)")
    if not words:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    try:
        check: dict[str, Any] = {"Test": ["CMD", *words] if node.is_json else ["CMD-SHELL", " ".join(words)]}
        check["Interval"] = _interval(flags, "interval")
        check["Timeout"] = _interval(flags, "timeout")
        check["StartPeriod"] = _interval(flags, "start-period")
        check["StartInterval"] = _interval(flags, "start-interval")
        check["Retries"] = _retries(flags)
    except ValueError as error:
        raise DockerfileError(str(error)) from None
    return HealthCheck(node, location, check)


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    duration = parse_duration(text) if text else 0
    shortest = 1_000_000
    if duration and duration < shortest:
        raise ValueError(f"Interval {quote(name)} cannot be less than {format_duration(shortest)}")
    return duration


def _retries(flags: Flags) -> int:
    text = flags.text("retries")
    retries = parse_int(text, bits=32) if text else 0
    if retries < 0:
        raise ValueError(f"--retries cannot be negative ({retries})")
    return retries


def heredoc_in(word: str) -> Heredoc | None:
    """The here-document that a word asks for, if any."""
    try:
        return parse_heredoc(word)
    except DockerfileError:
        return None


def _sources_and_dest(node: Node) -> tuple[tuple[str, ...], tuple[InlineFile, ...], str]:
    *sources, dest = node.arguments
    if heredoc_in(dest):
        raise DockerfileError(f"{node.name.upper()} cannot accept a heredoc as a destination")
    contents = {heredoc.name: heredoc.content for heredoc in node.heredocs}
    paths: list[str] = []
    files: list[InlineFile] = []
    for source in sources:
        heredoc = heredoc_in(source)
        if heredoc is None:
            paths.append(source)
            continue
        content = contents.get(heredoc.name, "")
        files.append(
            InlineFile(heredoc.name, chomp_heredoc(content) if heredoc.chomp else content, heredoc.expand)
        )
    return tuple(paths), tuple(files), dest


def _check_destination(node: Node, name: str) -> None:
    if len(node.arguments) < 2:
        raise DockerfileError(
            f"{name} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )


_COPY_FLAGS = {"chown": TEXT, "from": TEXT, "chmod": TEXT, "link": BOOL, "exclude": LIST, "parents": BOOL}


def _copy(node: Node, _linter: Linter, location: Location) -> Copy:
    _check_destination(node, "COPY")
    return Copy(node, location, _flags(node, _COPY_FLAGS))


_ADD_FLAGS = {
    "chown": TEXT,
    "chmod": TEXT,
    "link": BOOL,
    "keep-git-dir": BOOL,
    "checksum": TEXT,
    "unpack": BOOL,
    "exclude": LIST,
}


def _add(node: Node, _linter: Linter, location: Location) -> Add:
    _check_destination(node, "ADD")
    return Add(node, location, _flags(node, _ADD_FLAGS))


def _from(node: Node, linter: Linter, location: Location) -> Stage:
    words = node.arguments
    if len(words) == 3 and words[2] != words[2].lower():
        linter.warn("StageNameCasing", f"Stage name '{words[2]}' should be lowercase", location)
    if len(words) >= 3 and not _casings_match(node.value, words[1]):
        linter.warn(
            "FromAsCasing", f"'{words[1]}' and '{node.value}' keywords' casing do not match", location
        )
    name = _stage_name(words)
    stage = Stage(node, location, name, _flags(node, {"platform": TEXT}).text("platform"))
    if name:
        _check_description("FROM", [name], node, linter, location)
    return stage


def _casings_match(name: str, keyword: str) -> bool:
    """Whether `as` is written as FROM is, where FROM is all in one case."""
    if name == name.lower():
        return keyword == keyword.lower()
    return name != name.upper() or keyword == keyword.upper()


def _stage_name(words: Sequence[str]) -> str:
    if len(words) == 3 and words[1].casefold() == "as":
        name = words[2].lower()
        letters = "abcdefghijklmnopqrstuvwxyz"
        if name[0] not in letters or name.strip(letters + "0123456789-_."):
            raise DockerfileError(
                f"invalid name for build stage: {quote(words[2])}, "
                "name can't start with a number or contain symbols"
            )
        return name
    if len(words) != 1:
        raise DockerfileError("FROM requires either one or three arguments")
    return ""


def _description(comments: Sequence[str], name: str) -> str:
    """The rest of the first comment that begins with `name`."""
    if not name:
        return ""
    return next((line[len(name) + 1 :] for line in comments if line.startswith(name + " ")), "")


def _check_description(
    instruction: str, names: Sequence[str], node: Node, linter: Linter, location: Location
) -> None:
    if not node.comments or node.comments[-1].split(" ")[0] in names:
        return
    name = names[0] if len(names) == 1 else "<arg_key>"
    message = f"Comment for {instruction} should follow the format: `# {name} <description>`"
    linter.warn("InvalidDefinitionDescription", message, location)


_READERS: dict[str, Callable[[Node, Linter, Location], Instruction]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "from": _from,
    "healthcheck": _health_check,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _on_build,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stop_signal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
