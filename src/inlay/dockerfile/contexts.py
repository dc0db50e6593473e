"""Where files come from: the main build context, and named contexts in the place of stages and images.

BuildKit: frontend/dockerui/{context,namedcontext,config}.go.
"""

from __future__ import annotations

from inlay import json
from inlay.dockerfile.drafts import FileDraft, SettledDraft, SourceDraft
from inlay.dockerfile.ignore import parse_ignore
from inlay.dockerfile.image import Image
from inlay.dockerfile.resolver import ImageRequest
from inlay.dockerfile.sources import git_source, git_url, http_source
from inlay.dockerfile.state import State
from inlay.errors import DockerfileError, InlayError, UsageError
from inlay.golang import json as gojson
from inlay.golang.patterns import clean, join
from inlay.golang.text import quote
from inlay.llb.graph import Notes
from inlay.llb.ops import Copy, SourceOp
from inlay.platform import format_platform, normalise
from inlay.reference import parse as parse_reference
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from inlay.dockerfile.drafts import Draft
    from inlay.dockerfile.options import ConvertOptions
    from inlay.dockerfile.resolver import Resolver
    from inlay.platform import Platform
    from inlay.reference import Reference

_HTTP_FILE = "context"


class Loaded(NamedTuple):
    """A named context's tree, and its config where it is an image."""

    state: State
    image: Image | None = None


class NamedContext(NamedTuple):
    """A `--build-context`. `key` is its name as the options have it, perhaps with `::platform`."""

    value: str
    name: str
    key: str
    platform: Platform | None
    paths: set[str] | None = None
    """What is taken of it, complete only at the end; None for all."""

    def request(self, options: ConvertOptions) -> ImageRequest | None:
        """The image to look up before it can be loaded, if it is one. Raises `DockerfileError`."""
        kind, colon, rest = self.value.partition(":")
        if not colon:
            raise DockerfileError(f"invalid context specifier {self.value} for {self.key}")
        reference = rest.removeprefix("//")
        log_name = f"[context {self.key}] load metadata for "
        if kind == "docker-image" and reference != "scratch":
            image = str(_parsed(reference).with_default_tag())
            return ImageRequest(image, self.platform, options.resolve_mode, log_name=log_name + reference)
        if kind == "oci-layout":
            store, name = self._layout(reference)
            return ImageRequest(name, self.platform, store=store, log_name=log_name + name)
        return None

    def _layout(self, reference: str) -> tuple[str, str]:
        """The store of an OCI layout, and the name under which its image goes in messages and op."""
        repository, at, digest = reference.partition("@")
        try:
            parse_reference(reference)
        except UsageError as error:
            message = f"could not parse oci-layout reference {quote(reference)}: {error}"
            raise DockerfileError(message) from None
        if not at:
            raise DockerfileError(f"oci-layout reference {quote(reference)} has no digest")
        folder, slash, last = repository.rpartition("/")
        return folder + slash + last.partition(":")[0], f"{_parsed(self.name)}@{digest}"

    def load(self, options: ConvertOptions, resolver: Resolver) -> Loaded:
        """Make its tree. Raises `DockerfileError` with BuildKit's message."""
        request = self.request(options)
        if request is not None:
            return self._load_image(options, resolver, request)
        kind, _, rest = self.value.partition(":")
        if kind == "docker-image":
            return Loaded(State())
        if kind == "local":
            return Loaded(State(self._local(rest, options, resolver)))
        if kind == "git" or kind.startswith("git@"):
            git = git_url(self.value)
            if git is None:
                raise DockerfileError(f"invalid git context {self.value}")
            return Loaded(State(git_context(self.value, keep_git_dir=False, mtime="")))
        if kind in ("http", "https"):
            git_tree = git_context(self.value, keep_git_dir=False, mtime="")
            notes = Notes(f"[context {self.key}] {self.value}")
            return Loaded(State(git_tree or http_source(self.value, _HTTP_FILE, notes)))
        if kind == "input":
            return Loaded(self._input(rest, options))
        raise DockerfileError(f"unsupported context source {kind} for {self.key}")

    def _load_image(self, options: ConvertOptions, resolver: Resolver, request: ImageRequest) -> Loaded:
        try:
            resolved = resolver.resolve(request)
        except InlayError as error:
            raise DockerfileError(str(error)) from error
        try:
            image = Image.parse(resolved.config)
        except ValueError as error:
            what = "could not parse oci-layout image config: " if request.store else ""
            raise DockerfileError(f"{what}{error}") from None
        image.created = ""
        if request.store:
            attrs = {"oci.session": options.session, "oci.store": request.store}
            notes = Notes(f"[context {self.key}] OCI load from client")
            source = SourceDraft(f"oci-layout://{request.reference}", attrs, notes, self.platform)
        else:
            shown = self.value.partition(":")[2].removeprefix("//")
            notes = Notes(f"[context {self.key}] {shown}")
            source = SourceDraft(f"docker-image://{request.reference}", {}, notes, self.platform)
        state = State(source, self.platform)
        state.take_config(image)
        return Loaded(state, image)

    def _local(self, name: str, options: ConvertOptions, resolver: Resolver) -> SourceDraft:
        excludes = _excludes(resolver.dockerignore(name), ".dockerignore")
        hint = f"context:{self.key}-{options.shared_keys.get(self.key, '')}"

        def attrs() -> dict[str, str]:
            return local_attrs(options, name, hint, excludes, self.paths or ())

        return SourceDraft(f"local://{name}", attrs, Notes(f"[context {self.key}] load from client"))

    def _input(self, name: str, options: ConvertOptions) -> State:
        if name not in options.inputs:
            raise DockerfileError(f"invalid input {name} for {self.key}")
        vertex = options.inputs[name]
        return State() if vertex is None else State(SettledDraft(vertex), vertex.platform)


def find_named_context(
    options: ConvertOptions, name: str, platform: Platform | None, paths: set[str] | None
) -> NamedContext | None:
    """The context that takes the place of stage or image `name`, first one for the platform alone."""
    if name.lower() in ("scratch", "context"):
        return None
    return find_context_by_name(options, name, platform, paths)


def find_context_by_name(
    options: ConvertOptions, name: str, platform: Platform | None, paths: set[str] | None
) -> NamedContext | None:
    """The same for any name, `scratch` and `context` as well."""
    try:
        key = parse_reference(name).familiar.removesuffix(":latest")
    except UsageError as error:
        raise DockerfileError(f"invalid context name {name}: {error}") from None
    if not options.named_contexts:
        return None
    exact = f"{key}::{format_platform(normalise(platform or options.build_platform))}"
    for candidate in (exact, key):
        value = options.named_contexts.get(candidate)
        if value is not None:
            return NamedContext(value, key, candidate, platform, paths)
    return None


def check_context(options: ConvertOptions) -> None:
    """Raise `DockerfileError` where the build context's URL is that of no repository, though it looks so."""
    if options.context:
        git_url(options.context)


class MainContext(NamedTuple):
    """The build context, and what its ignore file says. `paths` is complete only at the end."""

    tree: Draft
    excludes: tuple[str, ...] = ()


def main_context(
    options: ConvertOptions, resolver: Resolver, paths: Callable[[], Iterable[str]]
) -> MainContext:
    """The local folder `context`, a checkout or a download. Raises `DockerfileError`, `UsageError`."""
    tree = _remote_context(options, resolver)
    if tree is not None:
        if options.context_subdir is not None:
            scoped = Copy(
                join("/", clean(options.context_subdir)), "/", mode=-1, copy_dir_contents=True, timestamp=-1
            )
            tree = FileDraft(None, [(scoped, tree)])
        return MainContext(tree)
    excludes = _excludes(options.dockerignore, options.dockerignore_name)

    def attrs() -> dict[str, str]:
        return local_attrs(options, "context", "context", excludes, paths())

    draft = SourceDraft("local://context", attrs, Notes("[internal] load build context"))
    return MainContext(draft, tuple(excludes))


def _remote_context(options: ConvertOptions, resolver: Resolver) -> Draft | None:
    url = options.context
    mtime = "commit" if options.build_args.get("SOURCE_DATE_EPOCH") else ""
    git = git_context(url, keep_git_dir=options.keep_git_dir, mtime=mtime) if url else None
    if git is not None:
        return git
    if url.startswith(("http://", "https://")):
        source = http_source(url, _HTTP_FILE, Notes("[internal] load remote build context"))
        if not resolver.is_archive(SourceOp(url, (("http.filename", _HTTP_FILE),))):
            return source
        unpacked = Copy(f"/{_HTTP_FILE}", "/", mode=-1, unpack=True, timestamp=-1)
        return FileDraft(None, [(unpacked, source)])
    if "context" in options.inputs and options.inputs["context"] is not None:
        return SettledDraft(options.inputs["context"])
    return None


def git_context(url: str, *, keep_git_dir: bool, mtime: str) -> SourceDraft | None:
    """A checkout as a build context; None where `url` is no repository's."""
    git = git_url(url)
    if git is None:
        return None
    return git_source(
        git,
        Notes(f"[internal] load git source {url}"),
        keep_git_dir=keep_git_dir or bool(git.keep_git_dir),
        checksum=git.checksum,
        mtime=git.mtime or mtime,
    )


def local_attrs(
    options: ConvertOptions, name: str, hint: str, excludes: Iterable[str], paths: Iterable[str]
) -> dict[str, str]:
    """The attributes of a local source. `paths` are absolute in it; the root among them stands for all."""
    attrs = {"local.session": options.sessions.get(name, options.session), "local.sharedkeyhint": hint}
    excludes = list(excludes)
    if excludes:
        attrs["local.excludepatterns"] = gojson.dumps(excludes)
    follow = set(paths)
    if follow and "/" not in follow:
        relative = sorted(
            (path[1:] for path in follow), key=lambda path: path.encode(errors="surrogateescape")
        )
        attrs["local.followpaths"] = gojson.dumps(relative)
    return attrs


class LocalSource(NamedTuple):
    """A folder that a definition wants to be sent: its name, the paths to follow (empty: all), what to leave out."""

    name: str
    follow_paths: tuple[str, ...]
    exclude_patterns: tuple[str, ...]

    @classmethod
    def of(cls, source: SourceOp) -> LocalSource:
        """Read the attributes of a `local://` source."""
        lists = [
            json.loads(source.attr(f"local.{name}") or "[]") for name in ("followpaths", "excludepatterns")
        ]
        return cls(source.identifier.partition("://")[2], tuple(lists[0]), tuple(lists[1]))


def _excludes(text: bytes | None, name: str) -> list[str]:
    try:
        return parse_ignore(text or b"")
    except DockerfileError as error:
        raise DockerfileError(f"failed parsing {name}: {error.message}") from None


def _parsed(reference: str) -> Reference:
    try:
        return parse_reference(reference)
    except UsageError as error:
        raise DockerfileError(str(error)) from None
