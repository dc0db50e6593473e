"""The build graph: vertices that point at the edges they need, and its form as an ordered definition."""

from __future__ import annotations

from inlay.digest import Digest
from inlay.llb.ops import FileOp
from inlay.llb.wire import InputName, encode_op
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.errors import Location
    from inlay.llb.ops import Op
    from inlay.platform import Platform


class ProgressGroup(NamedTuple):
    """Vertices shown as one step; a `weak` group is shown only when one of them has work to do."""

    id: str
    name: str
    weak: bool = False


class Resources(NamedTuple):
    """Limits of a step's container; no part of any key. 0 and empty are no limit."""

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""


class Notes(NamedTuple):
    """What is known of a vertex beside its op: no digest and no key depends on it."""

    name: str = ""
    """What progress shows."""
    description: tuple[tuple[str, str], ...] = ()
    """BuildKit's further descriptions, such as `com.docker.dockerfile.v1.command`; (name, value), sorted."""
    location: Location | None = None
    """Where in the Dockerfile it comes from."""
    ignore_cache: bool = False
    progress_group: ProgressGroup | None = None
    resources: Resources | None = None


NO_NOTES = Notes()


class Edge(NamedTuple):
    """One output of a vertex."""

    vertex: Vertex
    output: int = 0


class Vertex:
    """An op and the edges it needs. Vertices with the same digest are equal: they are the same work."""

    __slots__ = ("digest", "inputs", "notes", "op", "platform", "raw")

    def __init__(
        self, op: Op, inputs: Sequence[Edge] = (), platform: Platform | None = None, notes: Notes = NO_NOTES
    ) -> None:
        """Raises `ValueError` where a text of `op` is not UTF-8."""
        self.op = op
        self.inputs = tuple(inputs)
        self.platform = platform
        self.notes = notes
        self.raw = encode_op([InputName(edge.vertex.digest, edge.output) for edge in inputs], op, platform)
        self.digest: Digest = Digest.of(self.raw)

    @property
    def name(self) -> str:
        return self.notes.name

    @property
    def location(self) -> Location | None:
        return self.notes.location

    @property
    def ignore_cache(self) -> bool:
        return self.notes.ignore_cache

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vertex) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Vertex {self.digest[7:19]} {self.name or type(self.op).__name__}>"


class Definition(NamedTuple):
    """A graph in BuildKit's order: each vertex once, after its inputs. No `target` is an empty result."""

    vertices: tuple[Vertex, ...]
    target: Edge | None

    @property
    def ops(self) -> tuple[bytes, ...]:
        """The bytes of the ops in order; the last one only names the target."""
        if self.target is None:
            return ()
        last = encode_op([InputName(self.target.vertex.digest, self.target.output)], None)
        return (*(vertex.raw for vertex in self.vertices), last)


def define(target: Edge | None) -> Definition:
    """Put everything that `target` needs in BuildKit's order, which is part of what other tools read.

    Depth first; a file op's base comes first, then its sources from the last action to the first
    (BuildKit: client/llb/state.go `marshal`, fileop.go `Inputs`).
    """
    if target is None:
        return Definition((), None)
    order: list[Vertex] = []
    seen: set[Digest] = set()
    pending: list[tuple[Vertex, bool]] = [(target.vertex, False)]
    while pending:
        vertex, inputs_done = pending.pop()
        if vertex.digest in seen:
            continue
        if inputs_done:
            seen.add(vertex.digest)
            order.append(vertex)
        else:
            pending.append((vertex, True))
            pending += [(needed, False) for needed in reversed(_listing(vertex))]
    return Definition(tuple(order), target)


def _listing(vertex: Vertex) -> list[Vertex]:
    vertices = [edge.vertex for edge in vertex.inputs]
    if len(vertices) < 2 or not isinstance(vertex.op, FileOp):
        return vertices
    first = vertex.op.actions[0].input
    positions = [first] if 0 <= first < len(vertices) else []
    positions += [action.secondary_input for action in reversed(vertex.op.actions)]
    return [vertices[position] for position in positions if 0 <= position < len(vertices)]
