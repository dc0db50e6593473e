"""What is to be written, and how: planned before the build, so that wrong wishes fail before anything runs."""

from __future__ import annotations

from inlay.errors import UsageError
from inlay.notation import check_exports
from inlay.reference import parse as parse_reference
from inlay.request import Option
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.archive.codecs import Codec
    from inlay.cache.results import Mode
    from inlay.reference import Reference
    from inlay.request import BuildRequest


class Output(NamedTuple):
    """One thing to write. `names` are full references; `option` has what else was asked for."""

    option: Option
    names: tuple[Reference, ...] = ()

    @property
    def is_image(self) -> bool:
        return self.option.type not in ("local", "tar")

    @property
    def is_pushed(self) -> bool:
        return self.option.type == "image" and self.option.flag("push")

    @property
    def docker(self) -> bool:
        """Whether docker's media types are wanted; archives for docker always have them."""
        return not self.option.flag("oci-mediatypes", default=self.option.type != "docker")


def plan_outputs(request: BuildRequest) -> list[Output]:
    """What `request` wants written. Raises `UsageError`, before anything is built."""
    names = tuple(parse_target(tag, "-t") for tag in request.tags)
    check_exports(request.cache_to, request.outputs)
    _check_caches([option for option in request.cache_to if option.type == "registry"])
    outputs = [_plan(option, names) for option in request.outputs or (Option("image"),)]
    if request.annotations:
        from inlay.export.annotations import check_annotations

        for output in outputs:
            if output.is_image:
                check_annotations(request.annotations, request.platforms, docker=output.docker)
    return outputs


def _plan(option: Option, names: tuple[Reference, ...]) -> Output:
    if option.type == "registry":
        option = Option("image", (*option.fields, ("push", "true")))
    own = tuple(parse_target(name, "--output") for name in option.get("name").split(",") if name)
    output = Output(option, own or names)
    if output.is_pushed and not output.names:
        raise UsageError("nothing to push to: name the image with -t REGISTRY/NAME:TAG")
    return output


def _check_caches(options: Sequence[Option]) -> None:
    """Raise `UsageError` for two caches that would go to one place in a registry."""
    places = [parse_target(option.get("ref"), "--cache-to") for option in options]
    for option, place in zip(options, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"--cache-to {option}: two caches cannot go to the same place")


def parse_target(text: str, flag: str) -> Reference:
    """The name of something to write, with its tag. Raises `UsageError`."""
    try:
        reference = parse_reference(text)
    except UsageError as error:
        raise UsageError(f"{flag} {text}: {error}") from error
    if reference.digest:
        raise UsageError(f"{flag} {text}: what is written cannot be named by a digest")
    return reference if reference.tag else reference._replace(tag="latest")


def codec_of(option: Option) -> Codec:
    """How an option (which `check_exports` has checked) wants layers packed; gzip unless it says otherwise."""
    from inlay.archive.codecs import Gzip, Uncompressed, Zstd

    kind, level = option.get("compression") or "gzip", option.get("compression-level")
    codecs: dict[str, Callable[..., Codec]] = {"gzip": Gzip, "zstd": Zstd}
    if kind == "uncompressed":
        return Uncompressed()
    return codecs[kind](int(level)) if level else codecs[kind]()


def layer_codec(request: BuildRequest, outputs: Sequence[Output]) -> Codec | None:
    """How the layers of an image are packed first; None where nothing wants them packed."""
    options = [each.option for each in outputs if each.is_image] + list(request.cache_to)
    packing = [option for option in options if option.type not in ("cacheonly", "inline")]
    return codec_of(packing[0]) if packing else None


def inline_mode(request: BuildRequest) -> Mode | None:
    """Which results the cache inside the image is to have; None where there is to be no such cache."""
    modes = [option.get("mode") for option in request.cache_to if option.type == "inline"]
    if not modes:
        return None
    return "max" if "max" in modes else "min"
