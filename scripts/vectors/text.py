"""Kinds that compare how text is read: Dockerfiles, words, patterns, names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inlay.dockerfile import parser
from inlay.dockerfile.giturl import NotGitError, read_git_url
from inlay.dockerfile.ignore import parse_ignore
from inlay.dockerfile.shell import Lexer
from inlay.errors import DockerfileError, UsageError
from inlay.golang.patterns import PatternMatcher
from inlay.golang.text import quote, valid
from inlay.platform import Platform, format_platform, normalise
from inlay.platform import parse as parse_platform
from inlay.reference import parse as parse_reference
from vectors.surroundings import dockerfile_of

if TYPE_CHECKING:
    from vectors import Pair
    from vectors.surroundings import Surroundings

_EMPTY_CONTINUATION = "https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/"


def shlex(record: dict[str, Any], _around: Surroundings) -> Pair:
    given = record["in"]
    env = dict(entry.split("=", 1) for entry in given["env"])
    lexer = Lexer(
        given.get("escape", "\\"),
        raw_quotes=given.get("raw_quotes", False),
        raw_escapes=given.get("raw_escapes", False),
        skip_quotes=given.get("skip_quotes", False),
        skip_unset=given.get("skip_unset", False),
    )
    actual: dict[str, Any] = {"in": given}
    try:
        expansion = lexer.expand(given["word"], env)
        actual["result"] = expansion.text
        actual["matched"] = sorted(expansion.matched)
        actual["unmatched"] = sorted(expansion.unmatched)
    except DockerfileError as error:
        actual["error"] = str(error)
    try:
        actual["words"] = lexer.split(given["word"], env)
    except DockerfileError as error:
        actual["words_error"] = str(error)
    return _without_empty(record), _without_empty(actual)


def _without_empty(record: dict[str, Any]) -> dict[str, Any]:
    """A record as Go writes it with lists of names in order; empty lists are left out, or null, or there."""
    plain = {key: value for key, value in record.items() if value not in ([], None)}
    return plain | {key: sorted(plain[key]) for key in ("matched", "unmatched") if key in plain}


def ignore(record: dict[str, Any], _around: Surroundings) -> Pair:
    given = record["in"]
    patterns = parse_ignore(given["text"].encode())
    actual: dict[str, Any] = {"in": given, "patterns": patterns or None}
    try:
        matcher = PatternMatcher(patterns)
        actual["match"] = {path: matcher.matches_or_parent(path) for path in given["paths"]}
    except UsageError as error:
        actual["matcher_error"] = str(error)
    return record, actual


def platform(record: dict[str, Any], _around: Surroundings) -> Pair:
    """Recorded on linux/amd64."""
    actual: dict[str, Any] = {"in": record["in"]}
    try:
        parsed = parse_platform(record["in"]["word"], default=Platform("linux", "amd64"))
    except UsageError as error:
        return record, actual | {"error": str(error)}
    actual["parsed"] = parsed.to_json()
    actual["normalized"] = normalise(parsed).to_json()
    actual["format"] = str(parsed)
    actual["format_all"] = format_platform(parsed)
    actual["format_all_normalized"] = format_platform(normalise(parsed))
    return record, actual


def reference(record: dict[str, Any], _around: Surroundings) -> Pair:
    actual: dict[str, Any] = {"in": record["in"]}
    try:
        parsed = parse_reference(record["in"]["word"])
    except UsageError as error:
        return record, actual | {"error": str(error)}
    actual["name"] = parsed.name
    actual["named"] = str(parsed)
    actual["tagged"] = str(parsed.with_default_tag())
    actual["familiar"] = parsed.familiar
    return record, actual


def giturl(record: dict[str, Any], _around: Surroundings) -> Pair:
    actual: dict[str, Any] = {"in": record["in"]}
    try:
        git = read_git_url(record["in"]["word"])
    except (NotGitError, DockerfileError) as error:
        return record, actual | {"is_git": isinstance(error, DockerfileError), "error": str(error)}
    actual["is_git"] = True
    actual["ref"] = {
        "Remote": git.remote,
        "ShortName": git.remote.rpartition("/")[2].removesuffix(".git"),
        "Ref": git.ref,
        "Checksum": git.checksum,
        "SubDir": git.subdir,
        "IndistinguishableFromLocal": git.is_local,
        "UnencryptedTCP": git.remote.startswith(("http://", "git://")),
        "KeepGitDir": git.keep_git_dir,
        "Submodules": git.submodules,
        "MTime": git.mtime,
        "FetchByCommit": git.fetch_by_commit,
    }
    return record, actual


def ast(record: dict[str, Any], around: Surroundings) -> Pair:
    """The Dockerfile is in the record or in the feature record of the same id."""
    given = {key: record[key] for key in ("id", "dockerfile", "dockerfile_b64") if key in record}
    source = given if len(given) > 1 else around.features[record["id"]]
    actual: dict[str, Any] = dict(given)
    try:
        result = parser.parse(dockerfile_of(source))
    except DockerfileError as error:
        _, first, last = error.location or ("", 0, 0)
        lines = range(first, last + 1)
        actual["ast_error"] = {"msg": error.message, "lines": [[line, line] for line in lines]}
        return record, actual
    nodes = [_tree(node) for node in result.instructions]
    actual["ast"] = {"c": nodes, "start": result.first_line, "end": result.last_line}
    actual["ast_dump"] = "\n".join(f"({_dump(node)})" for node in result.instructions)
    actual["escape"] = result.escape
    if result.warnings:
        actual["parser_warnings"] = [
            {"rule": "", "msg": warning.message, "line": warning.line, "url": _EMPTY_CONTINUATION}
            for warning in result.warnings
        ]
    return record, _as_recorded(actual)


def _tree(node: parser.Node) -> dict[str, Any]:
    """A node as recorded, arguments linked by `n`; what is empty is left out."""
    following: dict[str, Any] | None = {"c": [_tree(node.child)]} if node.child else None
    for argument in reversed(node.arguments):
        following = {"v": argument} | ({"n": following} if following is not None else {})
        if not argument:
            del following["v"]
    heredocs = [
        {
            "name": heredoc.name,
            "content": heredoc.content,
            "expand": heredoc.expand,
            "chomp": heredoc.chomp,
            "fd": heredoc.file_descriptor,
        }
        for heredoc in node.heredocs
    ]
    fields = {
        "v": node.value or None,
        "n": following,
        "attrs": {"json": True} if node.is_json else None,
        "flags": list(node.flags) or None,
        "orig": node.original or None,
        "heredocs": heredocs or None,
        "comments": list(node.comments) or None,
        "start": node.first_line or None,
        "end": node.last_line or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _dump(node: parser.Node) -> str:
    """BuildKit's own S-expression of a node."""
    flags = f" [{' '.join(map(quote, node.flags))}]" if node.flags else ""
    child = f" ({_dump(node.child)})" if node.child else ""
    return f"{node.name}{flags}{child}{''.join(f' {quote(argument)}' for argument in node.arguments)}"


def _as_recorded(value: Any) -> Any:
    """The records were written as JSON, which has no bytes that are not UTF-8."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, list):
        return [_as_recorded(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_recorded(item) for key, item in value.items()}
    return value
