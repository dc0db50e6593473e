"""Build container images from Dockerfiles without a daemon; the build cache travels inside the image.

    import inlay

    result = inlay.build(".", tags=["app"], cache_from=["registry.example/app:1"], cache_to=["type=inline"])
    print(result.digest, result.steps_cached)

`inlay.dockerfile` parses, checks and converts Dockerfiles on its own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from inlay.api import build
    from inlay.cancellation import Cancellation
    from inlay.errors import BuildCancelled, InlayError
    from inlay.request import BuildResult, Change, Explanation, StepOutcome
    from inlay.solver.solver import NotCached

__version__ = "0.1.0"

__all__ = [
    "BuildCancelled",
    "BuildResult",
    "Cancellation",
    "Change",
    "Explanation",
    "InlayError",
    "NotCached",
    "StepOutcome",
    "__version__",
    "build",
]

_HOMES = {
    "BuildCancelled": "inlay.errors",
    "BuildResult": "inlay.request",
    "Cancellation": "inlay.cancellation",
    "Change": "inlay.request",
    "Explanation": "inlay.request",
    "InlayError": "inlay.errors",
    "NotCached": "inlay.solver.solver",
    "StepOutcome": "inlay.request",
    "build": "inlay.api",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, so that the command line pays only for what it uses."""
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
