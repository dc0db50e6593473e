"""BuildKit's Dockerfile frontend, in Python: parse, inspect, lint and convert Dockerfiles.

    from inlay.dockerfile import ConvertOptions, convert, lint, parse

It needs nothing of the rest of inlay but values. docs/how-to/use-the-dockerfile-frontend.md has examples. The names
are loaded when they are first used: whoever needs the parser alone does not wait for the rest.
"""

from __future__ import annotations

import sys

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.dockerfile.conversion import ConvertedPlatform
    from inlay.dockerfile.directives import detect_syntax
    from inlay.dockerfile.excerpts import excerpt
    from inlay.dockerfile.frontend import Converted, convert
    from inlay.dockerfile.giturl import parse_git_url
    from inlay.dockerfile.ignore import parse_ignore
    from inlay.dockerfile.instructions import read_stages
    from inlay.dockerfile.linter import Linter, LintOptions, LintWarning
    from inlay.dockerfile.options import ConvertOptions
    from inlay.dockerfile.parser import Node, ParseResult, parse
    from inlay.dockerfile.report import lint, list_targets, outline
    from inlay.dockerfile.resolver import ImageRequest, ResolvedImage, Resolver
    from inlay.dockerfile.shell import Expansion, Lexer

__all__ = [
    "ConvertOptions",
    "Converted",
    "ConvertedPlatform",
    "Expansion",
    "ImageRequest",
    "Lexer",
    "LintOptions",
    "LintWarning",
    "Linter",
    "Node",
    "ParseResult",
    "ResolvedImage",
    "Resolver",
    "convert",
    "detect_syntax",
    "excerpt",
    "lint",
    "list_targets",
    "outline",
    "parse",
    "parse_git_url",
    "parse_ignore",
    "read_stages",
]

_MODULES = {
    "conversion": ("ConvertedPlatform",),
    "directives": ("detect_syntax",),
    "excerpts": ("excerpt",),
    "frontend": ("Converted", "convert"),
    "giturl": ("parse_git_url",),
    "ignore": ("parse_ignore",),
    "instructions": ("read_stages",),
    "linter": ("LintOptions", "LintWarning", "Linter"),
    "options": ("ConvertOptions",),
    "parser": ("Node", "ParseResult", "parse"),
    "report": ("lint", "list_targets", "outline"),
    "resolver": ("ImageRequest", "ResolvedImage", "Resolver"),
    "shell": ("Expansion", "Lexer"),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            __import__(f"{__name__}.{module}")  # importlib.import_module takes 0.3 ms to import itself
            value: object = getattr(sys.modules[f"{__name__}.{module}"], name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__} has no attribute {name}")
