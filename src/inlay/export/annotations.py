"""Annotations of an image, in buildx's notation: `NAME`, or `LEVEL[PLATFORM],…:NAME`.

`index` and `manifest` (the default) are on the document itself, `index-descriptor` and `manifest-descriptor` on
what names it: the entry in a layout's index.json, of a manifest also the entry in the index.
"""

from __future__ import annotations

import re

from inlay.errors import UsageError
from inlay.platform import format_platform, host, normalise, parse, parse_wanted
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inlay.platform import Platform

LEVELS = ("index", "index-descriptor", "manifest", "manifest-descriptor")


class Annotation(NamedTuple):
    """One annotation at one level; `platform` empty is every one."""

    level: str
    platform: str
    name: str
    value: str


def parse_annotations(pairs: Iterable[tuple[str, str]]) -> list[Annotation]:
    """Read what `--annotation` names. Raises `UsageError`."""
    found = []
    for text, value in pairs:
        levels, separator, name = text.partition(":")
        if not separator:
            levels, name = "manifest", text
        if not name:
            raise UsageError(f"--annotation {text}={value}: the annotation has no name")
        for level in levels.split(","):
            match = re.fullmatch(r"([a-z-]+)(?:\[([A-Za-z0-9_/.-]+)\])?", level)
            if match is None or match[1] not in LEVELS:
                raise UsageError(f"--annotation {text}={value}: {level!r} must be one of {', '.join(LEVELS)}")
            platform = format_platform(normalise(parse(match[2]))) if match[2] else ""
            if platform and match[1].startswith("index"):
                raise UsageError(f"--annotation {text}={value}: an index has no platform")
            found.append(Annotation(match[1], platform, name, value))
    return found


def check_annotations(pairs: Iterable[tuple[str, str]], platforms: Sequence[str], *, docker: bool) -> None:
    """Raise `UsageError` for annotations that an image of these platforms (of none: this machine's) cannot have."""
    built = {format_platform(normalise(parse(text))) for text in parse_wanted(platforms)}
    built = built or {format_platform(host())}
    for each in parse_annotations(pairs):
        if each.platform and each.platform not in built:
            raise UsageError(f"--annotation {each.name}: {each.platform} is not built")
        if each.level.startswith("index") and len(built) < 2:
            raise UsageError(f"--annotation {each.name}: an image of one platform has no index")
        if docker and each.level != "manifest":
            raise UsageError(f"--annotation {each.name}: docker's media types have none on the {each.level}")


def at_level(
    annotations: Iterable[Annotation], level: str, platform: Platform | None = None
) -> dict[str, str]:
    """The annotations of one level, for one platform."""
    wanted = ("", format_platform(normalise(platform))) if platform is not None else ("",)
    return {each.name: each.value for each in annotations if each.level == level and each.platform in wanted}
