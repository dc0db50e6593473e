"""Reading an ordinary command line without argparse, which takes 12 ms: a fifth of a build that is all cached.

`Arguments` is told of options by the calls that argparse is told of them, and reads what every parser would
read alike. All else (help, abbreviations, a slip of the keyboard) it leaves to argparse, whose messages and
texts are the only ones.
"""

from __future__ import annotations

from inlay.golang.text import parse_bool
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any


class Parsed:
    """Values of arguments by name, as in `argparse.Namespace`."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class _Option(NamedTuple):
    name: str
    action: str
    choices: Sequence[str]


class Arguments:
    """Stands in for an `argparse.ArgumentParser` with its groups; knows the actions that commands use."""

    def __init__(self) -> None:
        self.description = ""
        self._options: dict[str, _Option] = {}
        self._positionals: list[str] = []
        self._defaults: dict[str, Any] = {}
        self._is_ordinary = True

    def add_argument_group(self, title: str) -> Arguments:
        return self

    def set_defaults(self, **values: Any) -> None:
        self._defaults |= values

    def add_argument(
        self,
        *flags: str,
        action: str = "store",
        default: Any = None,
        choices: Sequence[str] = (),
        metavar: str = "",
        help: str = "",  # noqa: A002 - argparse's name
        **more: Any,
    ) -> None:
        self._is_ordinary = self._is_ordinary and not more and action in ("store", "store_true", "append")
        if not flags[0].startswith("-"):
            self._positionals.append(flags[0])
            return
        name = next(flag for flag in flags if flag.startswith("--")).strip("-").replace("-", "_")
        self._defaults[name] = False if action == "store_true" else default
        for flag in flags:
            self._options[flag] = _Option(name, action, choices)

    def plain(self, argv: Sequence[str]) -> list[str]:
        """`argv` as every parser reads it: with `--flag` for docker's `--flag=true`, and none for `--flag=false`."""
        plain = []
        for argument in argv:
            flag, equals, text = argument.partition("=")
            option = self._options.get(flag) if equals else None
            value = parse_bool(text) if option is not None and option.action == "store_true" else None
            if value is not False:
                plain.append(argument if value is None else flag)
        return plain

    def parse(self, argv: Sequence[str]) -> Parsed | None:
        """The values of `argv`; None where it takes argparse to say what they are."""
        values = {
            name: list(value) if type(value) is list else value for name, value in self._defaults.items()
        }
        positionals: list[str] = []
        rest = iter(argv)
        for argument in rest:
            if argument == "-" or not argument.startswith("-"):
                positionals.append(argument)
            elif not self._read(argument, rest, values):
                return None
        if not self._is_ordinary or len(positionals) != len(self._positionals):
            return None
        return Parsed(**values, **dict(zip(self._positionals, positionals, strict=True)))

    def _read(self, argument: str, rest: Iterator[str], values: dict[str, Any]) -> bool:
        """Set the value of the option `argument`; False where that is not plain."""
        flag, equals, text = argument.partition("=")
        option = self._options.get(flag)
        if option is None or (equals and not flag.startswith("--")):
            return False
        if option.action == "store_true":
            values[option.name] = True
            return not equals
        if not equals:
            text = next(rest, "-")
            if text.startswith("-"):
                return False
        if option.choices and text not in option.choices:
            return False
        if option.action == "append":
            values[option.name].append(text)
        else:
            values[option.name] = text
        return True
