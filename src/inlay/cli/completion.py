"""`inlay completion`: scripts by which shells complete commands, options and their values.

They are made from the parsers themselves and ask nothing of inlay when a key is pressed.
"""

from __future__ import annotations

import argparse
from shlex import quote

from inlay.cli import COMMANDS, parser_for
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay completion`."""
    parser.description = (
        "Print a script that completes inlay's command line. For bash: source <(inlay completion bash), in "
        "~/.bashrc for good; for zsh the same in ~/.zshrc, after compinit; for fish: inlay completion fish > "
        "~/.config/fish/completions/inlay.fish"
    )
    parser.add_argument("shell", choices=tuple(_SCRIPTS))
    parser.set_defaults(command=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    print(_SCRIPTS[arguments.shell](list(_commands())), end="")
    return 0


class _Option(NamedTuple):
    flags: Sequence[str]
    purpose: str
    takes_value: bool
    choices: Sequence[str]


class _Command(NamedTuple):
    """A command by the words that lead to it (none for `inlay` itself), and what may follow."""

    words: tuple[str, ...]
    options: Sequence[_Option]
    subcommands: Sequence[tuple[str, str]]
    choices: Sequence[str] = ()


def _commands() -> Iterator[_Command]:
    """`inlay`, and each command below it."""
    top = parser_for([])
    yield next(_below(top, ()))
    for name in COMMANDS:
        yield from list(_below(parser_for([name]), ()))[1:]


def _below(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[_Command]:
    options, subcommands, choices = [], [], list[str]()
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            purposes = {choice.dest: choice.help or "" for choice in action._choices_actions}
            subcommands += [(name, purposes.get(name, "")) for name in action.choices]
            below += action.choices.items()
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            purpose = (action.help or "").partition(";")[0]
            options.append(
                _Option(action.option_strings, purpose, action.nargs != 0, list(action.choices or ()))
            )
        elif action.choices:
            choices += action.choices
    yield _Command(words, options, subcommands, choices)
    for name, each in below:
        if each._actions[1:]:  # more than --help: it was given its arguments
            yield from _below(each, (*words, name))


# -- scripts -----------------------------------------------------------------------------------------------


def _bash(commands: Sequence[_Command]) -> str:
    """Also for zsh: of bash's own words only `compgen` and COMPREPLY, which zsh knows by bashcompinit."""
    leading = {" ".join((*command.words, name)) for command in commands for name, _ in command.subcommands}
    return _BASH.format(
        paths="|".join(quote(path) for path in sorted(leading)),
        words="\n".join(
            f"        {quote(' '.join(command.words))}) words={quote(' '.join(_words(command)))} ;;"
            for command in commands
        ),
        values="\n".join(_values(commands)),
    )


def _words(command: _Command) -> list[str]:
    return [
        *(name for name, _ in command.subcommands),
        *command.choices,
        *(flag for option in command.options for flag in option.flags),
    ]


def _values(commands: Sequence[_Command]) -> Iterator[str]:
    for command in commands:
        path, files = " ".join(command.words), []
        for option in command.options:
            flags = [quote(f"{path}:{flag}") for flag in option.flags] if option.takes_value else []
            if option.choices:
                reply = f'COMPREPLY=($(compgen -W {quote(" ".join(option.choices))} -- "$current"))'
                yield f"        {'|'.join(flags)}) {reply}; return ;;"
            else:
                files += flags
        if files:
            yield f"        {'|'.join(files)})"
            yield '            COMPREPLY=($(compgen -f -- "$current")); return ;;'


_BASH = """\
# Completion of inlay for bash, and for zsh by bashcompinit.
_inlay() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" path="" words="" n=1
    while [ "$n" -lt "$COMP_CWORD" ]; do
        case "${{path:+$path }}${{COMP_WORDS[n]}}" in
        {paths}) path="${{path:+$path }}${{COMP_WORDS[n]}}" ;;
        esac
        n=$((n + 1))
    done
    case "$path:$previous" in
{values}
    esac
    case "$path" in
{words}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    case "$current" in
        -*) ;;
        *) COMPREPLY+=($(compgen -f -- "$current")) ;;
    esac
}}
complete -o filenames -F _inlay inlay
"""


def _zsh(commands: Sequence[_Command]) -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash(commands)


def _fish(commands: Sequence[_Command]) -> str:
    lines = ["# Completion of inlay for fish."]
    for command in commands:
        names = " ".join(name for name, _ in command.subcommands)
        seen = [f"__fish_seen_subcommand_from {word}" for word in command.words]
        if names:
            seen.append(f"not __fish_seen_subcommand_from {names}")
        condition = f" -n {_fish_text('; and '.join(seen))}" if seen else ""
        for name, purpose in command.subcommands:
            lines.append(f"complete -c inlay -f{condition} -a {name} -d {_fish_text(purpose)}")
        if command.choices:
            lines.append(f"complete -c inlay -f{condition} -a {_fish_text(' '.join(command.choices))}")
        for option in command.options:
            flags = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
            value = f" -x -a {_fish_text(' '.join(option.choices))}" if option.choices else " -r"
            value = value if option.takes_value else ""
            purpose = _fish_text(option.purpose)
            lines.append(f"complete -c inlay{condition} {' '.join(flags)}{value} -d {purpose}")
    return "\n".join(lines) + "\n"


def _fish_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
