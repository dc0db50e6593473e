"""A registry of one image, and the shortest way to convert a Dockerfile."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from inlay.digest import Digest
from inlay.dockerfile.frontend import Converted, convert
from inlay.dockerfile.options import ConvertOptions
from inlay.dockerfile.resolver import ImageRequest, ResolvedImage, Resolver
from inlay.errors import NotFound
from inlay.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.llb.ops import SourceOp

AMD64 = Platform("linux", "amd64")


class FakeImages(Resolver):
    """Every image exists but those named `missing`; `onbuild` has a trigger. Notes what it is asked."""

    def __init__(self, *, trigger: str = "") -> None:
        self._trigger = trigger
        self.prefetched: list[list[str]] = []
        self.resolved: list[str] = []

    def prefetch(self, requests: Sequence[ImageRequest]) -> None:
        self.prefetched.append([request.reference for request in requests])

    def resolve(self, request: ImageRequest) -> ResolvedImage:
        self.resolved.append(request.reference)
        if "missing" in request.reference:
            raise NotFound(f"{request.reference}: not found")
        platform = request.platform or AMD64
        config = {
            "architecture": platform.architecture,
            "os": platform.os,
            "rootfs": {"type": "layers", "diff_ids": [Digest.of("layer")]},
            "config": {
                "Env": ["PATH=/bin"],
                "OnBuild": [self._trigger] if "onbuild" in request.reference else [],
            },
        }
        return ResolvedImage(Digest.of(request.reference), json.dumps(config).encode())

    def time_of(self, source: SourceOp) -> int | None:
        return 1_600_000_000


def converted(text: str | bytes, resolver: Resolver | None = None, **options: str) -> Converted:
    """Convert with frontend options; `build_arg__X` stands for `build-arg:X`, `_` for `-`."""
    named = {name.replace("__", ":").replace("_", "-", 1): value for name, value in options.items()}
    data = text.encode() if isinstance(text, str) else text
    return convert(data, ConvertOptions.parse(named, AMD64), resolver or FakeImages())


def history(result: Converted) -> list[str]:
    return [entry["created_by"] for entry in json.loads(result.results[0].image)["history"]]
