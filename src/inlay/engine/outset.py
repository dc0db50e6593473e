"""What every build asks for, asked while most of the program is still being imported.

On the command line it is known at once which caches are to be imported, what the Dockerfile starts FROM, and which
tags are to be pushed. The answers are there when they are needed; a question that fails is asked again by whoever
needs its answer, and told then. Where nothing can be cached, whoever runs steps is begun too: that is another process,
and the trial of a runtime.
"""

from __future__ import annotations

import os
from _functools import partial  # type: ignore[import-not-found]

from inlay.errors import InlayError
from inlay.reference import parse as parse_reference
from inlay.registry.ahead import TooLate
from inlay.sources.places import Places
from inlay.store.store import default_root
from inlay.tasks import start_thread
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from inlay.dockerfile.parser import ParseResult
    from inlay.executor.executor import Executor
    from inlay.oci.descriptor import Descriptor
    from inlay.reference import Reference
    from inlay.registry.repository import Repository
    from inlay.request import BuildRequest, Option

_CONFIG_LIMIT = 8 << 20
_DOCKERFILE_LIMIT = 1 << 20
_CONNECTIONS = 4
"""To a registry that is asked for a cache's layers. To one on this machine one is enough."""
_MAX_LAYERS = 32
"""Whether an image's layers are there is asked of each: of more, several at a time by who needs to know it."""


def _try(ask: Callable[[], None]) -> None:
    try:
        ask()
    except (TooLate, InlayError, OSError, ValueError, RecursionError):
        return


def _ask_for_layers(repository: Repository, layers: Sequence[Descriptor]) -> None:
    for layer in layers:
        _try(partial(repository.has_blob, layer))


class Outset:
    """What a build has from its first moment: the places that it asks, and who runs its steps."""

    def __init__(self, request: BuildRequest) -> None:
        self._request = request
        self._root = os.path.abspath(request.root or default_root())
        self._has_cache = os.path.exists(f"{self._root}/cache.db")
        self._made: list[Executor | Exception] = []
        self._is_made: Callable[[], object] | None = None
        """Waits for the executor that was begun."""
        self.places = Places(
            self._root,
            insecure_registries=request.insecure_registries,
            registry_mirrors=request.registry_mirrors,
        )

    def begin(self) -> Outset:
        """Begin, on other threads, what takes time."""
        if not os.path.exists(f"{self._root}/index.json"):  # else the store itself is asked first
            for option in self._request.cache_from:
                if option.type == "registry":
                    start_thread(partial(_try, partial(self._ask_cache, option)))
            start_thread(lambda: _try(self._ask_base_and_tags))
        return self

    # -- who runs steps ------------------------------------------------------------------------------

    def executor(self) -> Executor:
        """The executor that was begun, once; else a new one. Blocks. Raises `UsageError`, `SolveError`."""
        is_made, self._is_made = self._is_made, None
        if is_made is None:
            return self._make_executor()
        is_made()
        made = self._made.pop()
        if isinstance(made, Exception):
            raise made
        return made

    def close(self) -> None:
        """End the executor that was begun, if nobody took it."""
        if self._is_made is not None:
            try:
                self.executor().close()
            except (InlayError, OSError):
                return

    def _make_executor(self) -> Executor:
        from inlay.executor.choose import choose_executor

        request = self._request
        os.makedirs(self._root, mode=0o711, exist_ok=True)  # as the store does, which may not be open yet
        return choose_executor(request.runtime, f"{self._root}/runtime", request.cgroup_parent)

    def _begin_executor(self) -> None:
        try:
            self._made.append(self._make_executor())
        except Exception as error:  # who wants the executor gets it
            self._made.append(error)

    # -- what registries are asked -------------------------------------------------------------------

    def _ask_cache(self, option: Option) -> None:
        """What a cache's manifest and config are, and whether the layers that it names are there."""
        from inlay.oci.image import Manifest

        reference = parse_reference(option.get("ref"))
        repository = self.places.repository(reference).ahead()
        connections = _CONNECTIONS if repository.is_far else 1
        for _ in range(1, connections):
            start_thread(partial(_try, repository.connect))
        tag = str(reference.digest or reference.tag or "latest")
        top = repository.fetch_manifest(tag)
        if not isinstance(top, Manifest):
            return
        layers = top.layers if len(top.layers) <= _MAX_LAYERS else ()
        for n in range(1, connections):
            start_thread(partial(_ask_for_layers, repository, layers[n::connections]))
        if reference.with_default_tag() in self._pushed():
            repository.note(tag, top.digest)
        repository.read_blob(top.config, _CONFIG_LIMIT)
        _ask_for_layers(repository, layers[::connections])

    def _ask_base_and_tags(self) -> None:
        """What the last stage's base image is; and, where nothing may have to run, what the pushed tags are now."""
        parsed = self._dockerfile()
        if parsed is None:
            return
        is_first = not (self._has_cache or self._request.cache_from or self._request.require_cached)
        if is_first and any(node.name == "run" for node in parsed.instructions):
            self._is_made = start_thread(self._begin_executor)
        base = _base(parsed)
        if base is not None:
            _try(lambda: self._ask_image(base))
        if self._has_cache and not self._request.cache_from:
            for reference in self._pushed():
                self.places.repository(reference).ahead().look_up(reference.tag)

    def _ask_image(self, reference: Reference) -> None:
        from inlay.oci.image import Index, choose_platform
        from inlay.platform import host

        repository = self.places.repository(reference).ahead()
        image = repository.fetch_manifest(str(reference.digest or reference.tag))
        if isinstance(image, Index):
            chosen = choose_platform(image, host())
            if chosen is None:
                return
            image = repository.fetch_manifest(chosen.digest)
        if isinstance(image, Index) or os.path.exists(f"{self._root}/blobs/sha256/{image.config.digest.hex}"):
            return
        repository.read_blob(image.config, _CONFIG_LIMIT)

    def _dockerfile(self) -> ParseResult | None:
        """The Dockerfile, where that is a file and stages are built from it as they stand there."""
        from inlay.dockerfile.parser import parse
        from inlay.sources.maincontext import find_context

        request = self._request
        others = request.target or request.platforms or request.build_contexts
        if others or request.dockerfile == "-" or not os.path.isdir(request.context):
            return None
        found = find_context(
            request.context, request.dockerfile, _no_input, empty=self._root, limit=_DOCKERFILE_LIMIT
        )
        with open(os.path.join(found.dockerfile_folder, found.name), "rb") as file:
            return parse(file.read(_DOCKERFILE_LIMIT))

    def _pushed(self) -> list[Reference]:
        names: list[str] = []
        for option in self._request.outputs:
            if option.type == "registry" or (option.type == "image" and option.flag("push")):
                names += option.get("name").split(",") if option.get("name") else self._request.tags
        return [parse_reference(name).with_default_tag() for name in names]


def _base(parsed: ParseResult) -> Reference | None:
    """The image that the last stage is made from, where that is easily told."""
    bases: dict[str, str] = {}
    base = ""
    for node in parsed.instructions:
        if node.name == "from" and node.arguments:
            base = bases.get(node.arguments[0].lower(), node.arguments[0]) if not node.flags else "$"
            if len(node.arguments) == 3:
                bases[node.arguments[2].lower()] = base
    return None if base in ("", "scratch") or "$" in base else parse_reference(base).with_default_tag()


def _no_input() -> BinaryIO:
    raise OSError("standard input is not for this")
