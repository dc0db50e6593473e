"""From a build request to LLB: reads the Dockerfile and ignore files, answers the conversion's questions,
and opens the sources that it names."""

from __future__ import annotations

import os

from inlay.digest import Digest
from inlay.dockerfile.resolver import ResolvedImage, Resolver
from inlay.errors import DockerfileError, InlayError, SolveError, SourceError, UsageError
from inlay.llb.ops import SourceOp
from inlay.notation import parse_size
from inlay.platform import host, parse_wanted
from inlay.progress.events import Warned
from inlay.progress.report import shown
from inlay.reference import parse as parse_reference
from inlay.sources.image import Images, ImageSource
from inlay.sources.maincontext import DOCKERFILE, WEB_FILE, find_context, is_url
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import BinaryIO

    from inlay.actions.step import SourceAction
    from inlay.dockerfile.conversion import ConvertedPlatform
    from inlay.dockerfile.options import ConvertOptions
    from inlay.dockerfile.resolver import ImageRequest
    from inlay.errors import Location
    from inlay.llb.graph import Definition, Vertex
    from inlay.progress.events import Event
    from inlay.refs.store import RefStore
    from inlay.request import BuildRequest
    from inlay.sources.maincontext import MainContext
    from inlay.sources.places import Places
    from inlay.sources.remote import RemoteSources
    from inlay.store.store import Store
    from inlay.trees.digestmemory import DigestMemory
    from inlay.trees.tree import Tree

DOCKERFILE_LIMIT = 64 << 20


class Frontend:
    """The Dockerfile side of one build."""

    def __init__(
        self,
        request: BuildRequest,
        store: Store,
        places: Places,
        emit: Callable[[Event], None],
        remote: RemoteSources,
    ) -> None:
        self._request = request
        self._store = store
        self._remote = remote
        self._emit = emit
        self._folders: dict[str, str] = {}
        self._memory: DigestMemory | None = None
        self._context: MainContext | None = None
        self._tree: Tree | None = None
        self._images = Images(places, store.content, emit, root=store.root, pull=request.pull)
        self.resolver = _Resolver(self._images, remote, self._folders)
        self.epoch_s = _epoch(request)
        self.dockerfile = b""
        self.warnings: list[str] = []

    # -- the Dockerfile ------------------------------------------------------------------------------

    @property
    def context(self) -> MainContext:
        """Where the build context and the Dockerfile are. Raises `UsageError`."""
        if self._context is None:
            found = find_context(
                self._request.context,
                self._request.dockerfile,
                _standard_input,
                empty=f"{self._store.root}/empty",
                limit=DOCKERFILE_LIMIT,
            )
            if found.upload is not None:
                op = SourceOp(found.url, (("http.filename", WEB_FILE),))
                self._remote.http(op).take(found.upload.readinto)
            if found.folder:
                self._folders["context"] = found.folder
            self._context = found
        return self._context

    def read(self) -> tuple[bytes, ConvertOptions]:
        """The Dockerfile, and how it is to be converted."""
        options = self._options()
        name = self.context.name
        filename = name if name != "-" else "Dockerfile"
        if self.context.holds_dockerfile and self._is_web_file(options):
            filename = WEB_FILE  # the download is the Dockerfile
        with shown(self._emit, f"[internal] load build definition from {os.path.basename(name)}"):
            text = self._read_dockerfile(filename)
        ignore_name, ignore = self._ignore_file(name)
        options = options._replace(filename=filename, dockerignore=ignore, dockerignore_name=ignore_name)
        self.dockerfile = text
        return text, options

    def _read_dockerfile(self, name: str) -> bytes:
        context = self.context
        if context.name == "-":
            return context.text
        names = [name]
        if os.path.basename(name) == DOCKERFILE:
            names.append(os.path.join(os.path.dirname(name), DOCKERFILE.lower()))
        if not context.holds_dockerfile:
            paths = [os.path.join(context.dockerfile_folder, each) for each in names]
            return _read(next((path for path in paths if os.path.exists(path)), paths[0]), name)
        assert self._tree is not None
        from inlay.registry.url import shown_url

        for each in names:
            text = _read_in(self._tree, each)
            if text is not None:
                return text
        place = "the archive on standard input" if context.upload else shown_url(context.url)
        raise UsageError(f"there is no {name} in {place}; name the Dockerfile with -f")

    def remote_context(self) -> Definition | None:
        """What is to be solved before the Dockerfile can be read: the tree that it is in. None for most builds.

        Blocks while a download is looked at. The tree is to be given to `take_context`.
        """
        if not self.context.holds_dockerfile:
            return None
        from inlay.dockerfile.contexts import check_context, main_context
        from inlay.dockerfile.drafts import settle

        options = self._options()
        check_context(options)
        return settle(main_context(options, self.resolver, tuple).tree, options.build_platform)

    def take_context(self, tree: Tree) -> None:
        """Take the tree that `remote_context` asked for."""
        self._tree = tree

    def _is_web_file(self, options: ConvertOptions) -> bool:
        from inlay.dockerfile.sources import git_url

        if git_url(options.context) is not None:
            return False
        return not self.resolver.is_archive(SourceOp(options.context, (("http.filename", WEB_FILE),)))

    def convert(self) -> Sequence[ConvertedPlatform]:
        """Read and convert the Dockerfile; blocks while base images are looked up."""
        from inlay.dockerfile.excerpts import excerpt
        from inlay.dockerfile.frontend import convert

        text, options = self.read()
        try:
            converted = convert(text, options, self.resolver)
        except DockerfileError as error:
            error.excerpt = error.excerpt or excerpt(text, error.location)
            raise
        if converted.results:
            self.epoch_s = converted.results[0].epoch
        for warning in converted.warnings:
            line = f"{warning.rule}: {warning.message}"
            if warning.location is not None:
                line += f" (line {warning.location.first_line})"
            self.warnings.append(line)
            self._emit(Warned("", line))
        return converted.results

    def excerpt(self, location: Location | None) -> str:
        """The lines of the Dockerfile around `location`, ready to print."""
        from inlay.dockerfile.excerpts import excerpt

        text = excerpt(self.dockerfile, location)
        return f"{text}\n" if text else ""

    def _options(self) -> ConvertOptions:
        from inlay.dockerfile.options import ConvertOptions

        request = self._request
        options: dict[str, str] = {f"build-arg:{name}": value for name, value in request.build_args}
        options |= {f"label:{name}": value for name, value in request.labels}
        options |= {"target": request.target, "platform": ",".join(parse_wanted(request.platforms))}
        if request.no_cache:
            options["no-cache"] = ""
        elif request.no_cache_filter:
            options["no-cache"] = ",".join(request.no_cache_filter)
        if request.pull:
            options["image-resolve-mode"] = "pull"
        if request.network != "default":
            options["force-network-mode"] = request.network
        if request.add_hosts:
            options["add-hosts"] = ",".join(request.add_hosts)
        if request.shm_size:
            options["shm-size"] = str(parse_size(request.shm_size, "--shm-size"))
        if request.ulimits:
            options["ulimit"] = ",".join(request.ulimits)
        if request.cgroup_parent:
            options["cgroup-parent"] = request.cgroup_parent
        for name, value in request.build_contexts:
            options[f"context:{_context_name(name, value)}"] = self._named_context(name, value)
        options["context"] = self.context.url
        return ConvertOptions.parse(
            {name: value for name, value in options.items() if value or name == "no-cache"}, host()
        )

    def _named_context(self, name: str, value: str) -> str:
        """The frontend's notation for `--build-context NAME=VALUE`."""
        if value.startswith("oci-layout://"):
            return self._named_layout(name, value.removeprefix("oci-layout://"))
        if value.startswith(("docker-image://", "target:")) or (not os.path.isdir(value) and is_url(value)):
            return value
        if not os.path.isdir(value):
            scheme, separator, _ = value.partition("://")
            reason = f"there is nothing of the kind {scheme}://" if separator else "there is no such folder"
            from inlay.dockerfile.suggest import suggest

            near = suggest(scheme, _CONTEXT_SCHEMES) if separator else ""
            meant = f"; did you mean {near}://?" if near else ""
            raise UsageError(f"--build-context {name}={value}: {reason}{meant}")
        local = f"_{name}" if name in ("context", "dockerfile") else name  # those are the build's own
        self._folders[local] = value
        return f"local:{local}"

    def _named_layout(self, name: str, text: str) -> str:
        """Pin an image of a layout: `PATH`, `PATH:TAG` or `PATH@DIGEST`."""
        path, at, digest = text.partition("@")
        tag = ""
        if not at and not os.path.exists(path):
            path, _, tag = path.rpartition(":")
        if not os.path.exists(path):
            raise UsageError(f"--build-context {name}=oci-layout://{text}: there is no such layout")
        return f"oci-layout://{self._images.add_layout(path, tag, digest)}"

    def _ignore_file(self, name: str) -> tuple[str, bytes | None]:
        """The ignore file's name and content. What was fetched has none, as BuildKit sees it."""
        context = self.context
        if not context.folder:
            return ".dockerignore", None
        own = os.path.join(context.dockerfile_folder, f"{name}.dockerignore")
        with shown(self._emit, "[internal] load .dockerignore"):
            if name != "-" and os.path.exists(own):
                return f"{name}.dockerignore", _read(own, own)
            path = os.path.join(context.folder, ".dockerignore")
            return ".dockerignore", _read(path, ".dockerignore") if os.path.exists(path) else None

    # -- sources -------------------------------------------------------------------------------------

    def source_of(self, refs: RefStore) -> Callable[[Vertex], SourceAction]:
        """How each source vertex is pinned and fetched."""

        def source(vertex: Vertex) -> SourceAction:
            op = vertex.op
            assert isinstance(op, SourceOp)
            if op.scheme in ("docker-image", "oci-layout"):
                return ImageSource(op, vertex.platform or host(), self._images, refs)
            if op.scheme == "local":
                return self._local(op, refs)
            if op.scheme in self._remote.schemes:
                return self._remote.open(op)
            raise SolveError(
                f"{op.identifier}: sources of this kind cannot be fetched yet",
                step=vertex.name,
                location=vertex.location,
            )

        return source

    def _local(self, op: SourceOp, refs: RefStore) -> SourceAction:
        from inlay.sources.local import LocalSource

        return LocalSource(op, self._folders, self.memory, refs.mounted.keep)

    @property
    def memory(self) -> DigestMemory:
        """Digests of the context's files, remembered between builds."""
        if self._memory is None:
            from inlay.trees.digestmemory import DigestMemory

            folder = f"{self._store.root}/memory"
            os.makedirs(folder, mode=0o700, exist_ok=True)
            name = Digest.of(os.fsencode(os.path.abspath(self._request.context))).hex[:32]
            self._memory = DigestMemory(f"{folder}/{name}")
        return self._memory

    def save(self) -> None:
        """Keep what was learned for later builds."""
        if self._memory is not None:
            try:
                self._memory.save()
            except OSError as error:
                self._emit(Warned("", f"digests of the context are not remembered: {error.strerror}"))


_CONTEXT_SCHEMES = ("docker-image", "oci-layout", "https", "http", "git", "ssh")


def _context_name(name: str, value: str) -> str:
    """The name by which a Dockerfile reaches a named context, as buildx gives it: an image's, without what goes
    without saying."""
    try:
        return parse_reference(name).familiar.removesuffix(":latest")
    except UsageError as error:
        raise UsageError(
            f"--build-context {name}={value}: {name} cannot be the name of a context: {error}"
        ) from error


class _Resolver(Resolver):
    """Answers the conversion's questions. `folders`: named contexts that are folders here."""

    def __init__(self, images: Images, remote: RemoteSources, folders: Mapping[str, str]) -> None:
        self._images = images
        self._remote = remote
        self._folders = folders

    def prefetch(self, requests: Sequence[ImageRequest]) -> None:
        """Look images up at the same time; errors come out again when they are asked for."""
        requests = list(dict.fromkeys(requests))
        if len(requests) < 2:
            return
        from functools import partial

        from inlay.tasks import start_thread

        joins = [start_thread(partial(self._try, request)) for request in requests]
        for join in joins:
            join()

    def _try(self, request: ImageRequest) -> None:
        try:
            self._images.resolve(request)
        except InlayError:
            return

    def resolve(self, request: ImageRequest) -> ResolvedImage:
        image = self._images.resolve(request)
        return ResolvedImage(image.digest, image.config.raw)

    def dockerignore(self, name: str) -> bytes | None:
        folder = self._folders.get(name)
        path = os.path.join(folder, ".dockerignore") if folder else ""
        return _read(path, path) if path and os.path.exists(path) else None

    def is_archive(self, source: SourceOp) -> bool:
        return self._remote.http(source).is_archive()

    def time_of(self, source: SourceOp) -> int | None:
        remote = self._remote
        return remote.git(source).time() if source.scheme == "git" else remote.http(source).time()


def _epoch(request: BuildRequest) -> int | None:
    text = dict(request.build_args).get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _standard_input() -> BinaryIO:
    import sys

    return sys.stdin.buffer


def _read(path: str, name: str) -> bytes:
    """A Dockerfile or ignore file. Raises `UsageError`, or `DockerfileError` for one that is not there."""
    try:
        with open(path, "rb") as file:
            data = file.read(DOCKERFILE_LIMIT + 1)
    except OSError as error:
        hint = "make it readable" if isinstance(error, PermissionError) else "name the Dockerfile with -f"
        raise UsageError(f"cannot read {path}: {(error.strerror or '').lower()}; {hint}") from error
    if len(data) > DOCKERFILE_LIMIT:
        raise UsageError(f"{name} is larger than {DOCKERFILE_LIMIT >> 20} MiB")
    return data


def _read_in(tree: Tree, path: str) -> bytes | None:
    """A Dockerfile in a tree, links followed within it; None where there is none. Raises `SourceError`."""
    import stat

    from inlay.trees.tree import shown as printable

    with tree.resolve(path, follow_last=True) as place:
        if place.stat is None or place.parent is None or not stat.S_ISREG(place.stat.st_mode):
            return None
        if place.stat.st_size > DOCKERFILE_LIMIT:
            raise SourceError(f"{printable(path)} is larger than {DOCKERFILE_LIMIT >> 20} MiB")
        with open(tree.open(place.parent, place.name), "rb") as file:
            return file.read(DOCKERFILE_LIMIT)
