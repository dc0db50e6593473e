"""What a Dockerfile may ask for only where whoever builds it allows it (BuildKit: util/entitlements)."""

from __future__ import annotations

from inlay.errors import SolveError
from inlay.llb.ops import NETWORK_HOST, SECURITY_INSECURE, ExecOp
from inlay.request import ALLOW_NETWORK_HOST, ALLOW_SECURITY_INSECURE
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from inlay.llb.graph import Vertex
    from inlay.request import BuildRequest


def check_entitlements(vertices: Iterable[Vertex], request: BuildRequest) -> None:
    """Raise `SolveError` for the first step that asks for more than `request` allows.

    `--network host` allows network.host, as with docker.
    """
    allowed = set(request.allow)
    if request.network == "host":
        allowed.add(ALLOW_NETWORK_HOST)
    for vertex in vertices:
        for name in _asked_for(vertex):
            if name not in allowed:
                raise SolveError(
                    f"entitlement {name} is not allowed; pass --allow {name} if you trust this Dockerfile",
                    step=vertex.name,
                    location=vertex.location,
                )


def _asked_for(vertex: Vertex) -> Iterator[str]:
    if isinstance(vertex.op, ExecOp):
        if vertex.op.network == NETWORK_HOST:
            yield ALLOW_NETWORK_HOST
        if vertex.op.security == SECURITY_INSECURE:
            yield ALLOW_SECURITY_INSECURE
