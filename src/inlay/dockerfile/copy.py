"""COPY and ADD: file ops, and sources for URLs, repositories and here-documents.

BuildKit: frontend/dockerfile/dockerfile2llb/convert_copy.go.
"""

from __future__ import annotations

from inlay.dockerfile.drafts import FileDraft, MergeDraft
from inlay.dockerfile.literals import check_digest, check_mode, parse_int
from inlay.dockerfile.options import MERGE
from inlay.dockerfile.paths import is_absolute, normalise_path, restore_end, to_slash, without_drive
from inlay.dockerfile.sources import git_source, git_url, http_file_name, http_source
from inlay.errors import DockerfileError, UsageError
from inlay.golang.patterns import clean, has_wildcard, join
from inlay.golang.text import quote
from inlay.llb.graph import Notes, ProgressGroup
from inlay.llb.ops import Copy, MakeFile, Owner, User
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inlay.dockerfile.conversion import Conversion
    from inlay.dockerfile.drafts import Draft
    from inlay.dockerfile.giturl import GitUrl
    from inlay.dockerfile.instructions import InlineFile
    from inlay.dockerfile.scope import Scope
    from inlay.golang.patterns import PatternMatcher
    from inlay.llb.ops import Action

PREPARING = "[internal] preparing inline document"


class Transfer(NamedTuple):
    """A COPY or ADD whose variables are expanded. `tree` is what paths are taken from."""

    name: str
    """`COPY` or `ADD`."""
    sources: tuple[str, ...]
    files: tuple[InlineFile, ...]
    dest: str
    tree: Draft | None
    chown: str = ""
    chmod: str = ""
    checksum: str = ""
    excludes: tuple[str, ...] = ()
    link: bool = False
    parents: bool = False
    keep_git_dir: bool | None = None
    unpack: bool | None = None
    ignored: PatternMatcher | None = None

    @property
    def is_add(self) -> bool:
        return self.name == "ADD"


def transfer(conversion: Conversion, scope: Scope, request: Transfer) -> None:
    """Add the request's op to the stage. Raises `DockerfileError` or `ValueError` with BuildKit's message."""
    copying = _Copying(conversion, scope, request)
    actions = [*copying.from_sources(), *copying.from_files()]
    notes = Notes(copying.name, location=scope.location, ignore_cache=scope.stage.ignore_cache)
    state = scope.stage.state
    if request.link and not request.chmod and MERGE not in conversion.options.missing:
        state.root = _link(conversion, scope, state.root, actions, notes)
    else:
        state.root = FileDraft(state.root, actions, notes)
    scope.commit(copying.history(), layer=True)


def _link(
    conversion: Conversion,
    scope: Scope,
    base: Draft | None,
    actions: list[tuple[Action, Draft | None]],
    notes: Notes,
) -> Draft:
    """Copy onto nothing, and lay the result over `base`: then it does not depend on it."""
    group = ProgressGroup(conversion.new_group(), notes.name)
    layer = FileDraft(None, actions, notes._replace(progress_group=group._replace(weak=True)))
    if base is None:
        return layer
    scope.stage.step_index -= 1
    name = scope.step_name("LINK " + scope.command_text())
    return MergeDraft(base, layer, notes._replace(name=name, progress_group=group))


class _Copying:
    """Makes the actions of one COPY or ADD."""

    __slots__ = ("_conversion", "_dest", "_mode", "_mode_text", "_os", "_owner", "_request", "_scope", "name")

    def __init__(self, conversion: Conversion, scope: Scope, request: Transfer) -> None:
        self._conversion = conversion
        self._scope = scope
        self._request = request
        self._os = scope.os
        directory = scope.stage.state.directory
        dest = _destination(directory, request.dest, self._os)
        self._dest = restore_end(join("/", directory, dest) if dest[:1] != "/" else clean(dest), dest)
        self._owner = read_owner(request.chown) if request.chown else None
        self._mode, self._mode_text = _read_mode(request.chmod)
        _check_checksum(request)
        self.name = scope.step_name(scope.command_text())

    def history(self) -> str:
        request = self._request
        words = [request.name]
        if request.parents:
            words.append("--parents")
        if request.chown:
            words.append(f"--chown={request.chown}")
        if request.chmod:
            words.append(f"--chmod={request.chmod}")
        words += request.sources
        words += [f"<<{file.name}" for file in request.files]
        return " ".join([*words, request.dest]) + " # buildkit"

    def from_sources(self) -> Iterator[tuple[Action, Draft | None]]:
        for source in self._request.sources:
            git = git_url(source)
            if git is not None and not git.is_local:
                yield self._from_git(git)
            elif source.startswith(("http://", "https://")):
                yield self._from_http(source)
            else:
                yield self._from_path(source), self._request.tree

    def from_files(self) -> Iterator[tuple[Action, Draft | None]]:
        """One action for each here-document, from a file of its own on scratch."""
        for file in self._request.files:
            name = _without_drive(file.name, self._os)
            made = inline_file(name, file.content, mode=0o644)
            yield self._copy(join("/", to_slash(name, self._os))), made

    def _copy(self, source: str) -> Copy:
        return Copy(
            source,
            self._dest,
            self._owner,
            self._mode,
            create_dest_path=True,
            timestamp=-1,
            exclude_patterns=self._request.excludes,
            mode_text=self._mode_text,
        )

    def _from_git(self, git: GitUrl) -> tuple[Action, Draft | None]:
        request = self._request
        if not request.is_add:
            raise ValueError("source can't be a git ref for COPY")
        keep, checksum = request.keep_git_dir, request.checksum
        if keep is not None and git.keep_git_dir is not None and keep != git.keep_git_dir:
            raise ValueError("inconsistent keep-git-dir configuration")
        if checksum and git.checksum and checksum != git.checksum:
            raise ValueError(f"checksum mismatch {quote(checksum)} != {quote(git.checksum)}")
        # BuildKit carries both over to the sources that follow.
        keep = keep if git.keep_git_dir is None else git.keep_git_dir
        checksum = git.checksum or checksum
        self._request = request._replace(keep_git_dir=keep, checksum=checksum)
        notes = Notes(self.name, location=self._scope.location)
        source = git_source(git, notes, keep_git_dir=bool(keep), checksum=checksum)
        return self._copy("/"), source

    def _from_http(self, url: str) -> tuple[Action, Draft | None]:
        request = self._request
        if not request.is_add:
            raise ValueError("source can't be a URL for COPY")
        if request.checksum:
            check_digest(request.checksum)
        file_name = http_file_name(url)
        notes = Notes(self.name, (("com.docker.dockerfile.v1.command", ""),), self._scope.location)
        copy = self._copy(join("/", file_name))
        return copy._replace(unpack=bool(request.unpack)), http_source(
            url, file_name, notes, checksum=request.checksum
        )

    def _from_path(self, source: str) -> Copy:
        request = self._request
        self._check_ignored(source)
        patterns: tuple[str, ...] = ()
        required: tuple[str, ...] = ()
        if request.parents:
            source, patterns, required = self._with_parents(source)
        path = _normalised(source, self._os)
        return self._copy(clean(path))._replace(
            follow_symlink=True,
            copy_dir_contents=True,
            allow_wildcard=True,
            allow_empty_wildcard=True,
            unpack=request.is_add if request.unpack is None else request.unpack,
            include_patterns=patterns,
            required_paths=required,
        )

    def _with_parents(self, source: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """For `pivot/./pattern`: the folder to copy from, what to take of it, and what must be there."""
        pivot, has_pivot, pattern = source.partition("/./")
        if not has_pivot:
            pivot, pattern = "/", source
        pattern = _normalised(pattern, self._os)
        required: tuple[str, ...] = ()
        if not has_wildcard(pivot) and not has_wildcard(pattern):
            required = (_normalised(join(pivot, pattern), self._os),)
        return pivot, (pattern.removeprefix("/"),), required

    def _check_ignored(self, source: str) -> None:
        matcher = self._request.ignored
        if matcher is None or matcher.has_exceptions:
            return
        path = clean(source)
        if path in (".", "/") and not _ignores_everything(matcher):
            return
        try:
            is_ignored = matcher.matches_or_parent(path)
        except UsageError:
            return  # A pattern that BuildKit finds malformed only now, and passes over.
        if is_ignored:
            command = "Add" if self._request.is_add else "Copy"
            message = f"Attempting to {command} file {quote(path)} that is excluded by .dockerignore"
            self._scope.linter.warn("CopyIgnoredFile", message, self._scope.location)


def inline_file(name: str, content: str, *, mode: int) -> FileDraft:
    """A tree with one file."""
    data = content.encode(errors="surrogateescape")
    return FileDraft(None, [(MakeFile(join("/", name), mode, data, timestamp=-1), None)], Notes(PREPARING))


def read_owner(text: str) -> Owner:
    """`user[:group]`, each a name or a number; `root` is 0."""
    user, colon, group = text.partition(":")
    return Owner(_read_user(user), _read_user(group) if colon else None)


def _read_user(text: str) -> User:
    if text in ("", "root"):
        return User()
    try:
        return User(id=parse_int(text, bits=32) & 0xFFFFFFFF)
    except ValueError:
        return User(text)


def _read_mode(text: str) -> tuple[int, str]:
    """The mode as a number and as a text, of which one counts; -1 keeps what is there."""
    if not text:
        return -1, ""
    mode = check_mode(text)
    return (0, text) if mode is None else (mode, "")


def _check_checksum(request: Transfer) -> None:
    if not request.checksum:
        return
    if len(request.sources) != 1:
        raise ValueError("checksum can't be specified for multiple sources")
    source = request.sources[0]
    if not source.startswith(("http://", "https://")) and not _is_git(source):
        raise ValueError("checksum requires HTTP(S) or Git sources")


def _is_git(source: str) -> bool:
    try:
        return git_url(source) is not None
    except DockerfileError:
        return False


def _destination(directory: str, dest: str, os: str) -> str:
    dest = _without_drive(dest, os, keep_slash=True)
    if is_absolute(dest, os):
        return normalise_path("/", dest, os, keep_slash=True)
    if dest in ("", "."):
        dest = "./"
    return normalise_path(directory, dest, os, keep_slash=True)


def _normalised(path: str, os: str) -> str:
    try:
        return normalise_path("/", path, os)
    except ValueError as error:
        raise ValueError(f"removing drive letter: {error}") from None


def _without_drive(path: str, os: str, *, keep_slash: bool = False) -> str:
    try:
        return without_drive(path, os, keep_slash=keep_slash)
    except ValueError as error:
        raise ValueError(f"removing drive letter: {error}") from None


def _ignores_everything(matcher: PatternMatcher) -> bool:
    return any(pattern.text in ("*", "**", "**/*") for pattern in matcher.patterns)
