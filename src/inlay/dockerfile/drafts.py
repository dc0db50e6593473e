"""Vertices in the making.

A vertex cannot be made where its instruction stands: what the build context sends is known only after the last
instruction, and an input's index only once the inputs' digests are. So stages are made of drafts, and `settle` turns
those that the target needs into vertices (BuildKit: client/llb's states and `Marshal`).
"""

from __future__ import annotations

from inlay.errors import DockerfileError
from inlay.llb.graph import NO_NOTES, Definition, Edge, Notes, Vertex, define
from inlay.llb.ops import (
    CACHE,
    EMPTY,
    NO_OUTPUT,
    TMPFS,
    Copy,
    ExecOp,
    FileAction,
    FileOp,
    InputRef,
    MakeDirectory,
    MergeOp,
    Mount,
    Owner,
    SourceOp,
    User,
)
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from inlay.digest import Digest
    from inlay.llb.ops import Action, Op
    from inlay.platform import Platform


class Draft:
    """One vertex to be. `platform` is that of the op, before the build's default."""

    __slots__ = ("notes", "platform", "vertex")

    def __init__(self, notes: Notes = NO_NOTES, platform: Platform | None = None) -> None:
        self.notes = notes
        self.platform = platform
        self.vertex: Vertex | None = None

    def sources(self) -> Sequence[Draft]:
        """The drafts it needs, in the order in which BuildKit lists them."""
        raise NotImplementedError

    def op(self) -> tuple[Op, list[Vertex]]:
        """The op and its inputs. All sources have their vertex by now."""
        raise NotImplementedError

    def default_platform(self, default: Platform) -> Platform | None:
        """The platform of the op; None for ops that have none."""
        return None


class SourceDraft(Draft):
    """A source. `attrs` is asked for only at the end."""

    __slots__ = ("attrs", "identifier")

    def __init__(
        self,
        identifier: str,
        attrs: Mapping[str, str] | Callable[[], Mapping[str, str]],
        notes: Notes = NO_NOTES,
        platform: Platform | None = None,
    ) -> None:
        super().__init__(notes, platform)
        self.identifier = identifier
        self.attrs = attrs

    def sources(self) -> Sequence[Draft]:
        return ()

    def op(self) -> tuple[Op, list[Vertex]]:
        if not self.identifier:
            raise ValueError("source identifier can't be empty")
        attrs = self.attrs() if callable(self.attrs) else self.attrs
        pairs = sorted(attrs.items(), key=lambda pair: pair[0].encode(errors="surrogateescape"))
        return SourceOp(self.identifier, tuple(pairs)), []

    def default_platform(self, default: Platform) -> Platform | None:
        if self.identifier.startswith(("docker-image://", "oci-layout://")):
            return self.platform or default
        return None


class DraftMount(NamedTuple):
    """A mount whose `input` and `output` are still to be numbered; `keep` asks for an output."""

    mount: Mount
    source: Draft | None = None
    keep: bool = False


class ExecDraft(Draft):
    """RUN. `specials` are secrets and sockets, which stay behind all other mounts."""

    __slots__ = ("exec", "mounts", "specials")

    def __init__(
        self,
        exec_op: ExecOp,
        mounts: Iterable[DraftMount],
        specials: Iterable[Mount],
        notes: Notes,
        platform: Platform | None,
    ) -> None:
        super().__init__(notes, platform)
        self.exec = exec_op
        self.mounts = sorted(mounts, key=lambda draft: draft.mount.dest.encode(errors="surrogateescape"))
        self.specials = tuple(specials)

    def sources(self) -> Sequence[Draft]:
        return [draft.source for draft in self.mounts if draft.source is not None]

    def op(self) -> tuple[Op, list[Vertex]]:
        if self.exec.meta is None or not self.exec.meta.args:
            raise ValueError("arguments are required")
        inputs: list[Vertex] = []
        mounts: list[Mount] = []
        outputs = 0
        for mount, source, keep in self.mounts:
            output = NO_OUTPUT
            if keep and not mount.readonly and mount.type not in (CACHE, TMPFS):
                output, outputs = outputs, outputs + 1
            mounts.append(mount._replace(input=_index(inputs, source), output=output))
        return self.exec._replace(mounts=(*mounts, *self.specials)), inputs

    def default_platform(self, default: Platform) -> Platform | None:
        return self.platform or default


class FileDraft(Draft):
    """COPY, ADD, WORKDIR and here-documents: actions on `base`, each with the draft that it copies from."""

    __slots__ = ("actions", "base")

    def __init__(
        self, base: Draft | None, actions: Sequence[tuple[Action, Draft | None]], notes: Notes = NO_NOTES
    ) -> None:
        super().__init__(notes)
        self.base = base
        self.actions = actions

    def sources(self) -> Sequence[Draft]:
        base = [self.base] if self.base is not None else []
        return base + [source for _, source in reversed(self.actions) if source is not None]

    def op(self) -> tuple[Op, list[Vertex]]:
        inputs: list[Vertex] = []
        base = _index(inputs, self.base)
        sources = [_index(inputs, source) for _, source in self.actions]
        last = len(self.actions) - 1
        actions = [
            FileAction(
                base if position == 0 else len(inputs) + position - 1,
                source,
                0 if position == last else NO_OUTPUT,
                _owned_by(action, base),
            )
            for position, ((action, _), source) in enumerate(zip(self.actions, sources, strict=True))
        ]
        return FileOp(tuple(actions)), inputs


class MergeDraft(Draft):
    """COPY --link: `layer` laid over `base`."""

    __slots__ = ("base", "layer")

    def __init__(self, base: Draft, layer: Draft, notes: Notes) -> None:
        super().__init__(notes)
        self.base = base
        self.layer = layer

    def sources(self) -> Sequence[Draft]:
        return self.base, self.layer

    def op(self) -> tuple[Op, list[Vertex]]:
        return MergeOp((InputRef(0), InputRef(1))), [_vertex(self.base), _vertex(self.layer)]


class SettledDraft(Draft):
    """A vertex that was made elsewhere, with all that it needs."""

    __slots__ = ()

    def __init__(self, vertex: Vertex) -> None:
        super().__init__(vertex.notes)
        self.vertex = vertex

    def sources(self) -> Sequence[Draft]:
        return ()


def settle(target: Draft | None, platform: Platform) -> Definition:
    """Make the vertices that `target` needs. `platform` is that of ops that have none of their own.

    Raises `DockerfileError` where an op cannot be written.
    """
    if target is None:
        return Definition((), None)
    known: dict[Digest, Vertex] = {}
    pending: list[tuple[Draft, bool]] = [(target, False)]
    while pending:
        draft, sources_done = pending.pop()
        if draft.vertex is not None:
            continue
        if sources_done:
            draft.vertex = _intern(known, _make(draft, platform))
        else:
            pending.append((draft, True))
            pending += [(source, False) for source in reversed(draft.sources())]
    return define(Edge(_vertex(target)))


def _make(draft: Draft, platform: Platform) -> Vertex:
    try:
        op, inputs = draft.op()
        edges = [Edge(vertex) for vertex in inputs]
        return Vertex(op, edges, draft.default_platform(platform), draft.notes)
    except UnicodeEncodeError:
        raise DockerfileError(
            "failed to marshal LLB definition: string field contains invalid UTF-8", draft.notes.location
        ) from None
    except ValueError as error:
        raise DockerfileError(f"failed to marshal LLB definition: {error}", draft.notes.location) from None


def _intern(known: dict[Digest, Vertex], vertex: Vertex) -> Vertex:
    """The one vertex with that digest; what is noted later of it wins, as BuildKit merges metadata."""
    same = known.setdefault(vertex.digest, vertex)
    if same is not vertex:
        old, new = same.notes, vertex.notes
        same.notes = Notes(
            new.name or old.name,
            tuple(sorted({**dict(old.description), **dict(new.description)}.items())),
            old.location or new.location,
            old.ignore_cache or new.ignore_cache,
            new.progress_group or old.progress_group,
            new.resources or old.resources,
        )
    return same


def _index(inputs: list[Vertex], source: Draft | None) -> int:
    """The place of `source` among `inputs`, where it is put if it is new; equal digests are one input."""
    if source is None:
        return EMPTY
    vertex = _vertex(source)
    if vertex not in inputs:
        inputs.append(vertex)
    return inputs.index(vertex)


def _vertex(draft: Draft) -> Vertex:
    if draft.vertex is None:
        raise AssertionError("a draft was settled before what it needs")
    return draft.vertex


def _owned_by(action: Action, base: int) -> Action:
    """The action with the names of its owner looked up in the tree that it changes."""
    if isinstance(action, Copy | MakeDirectory) and action.owner is not None and base != 0:
        return action._replace(owner=Owner(*(_looked_up(user, base) for user in action.owner)))
    return action


def _looked_up(user: User | None, base: int) -> User | None:
    return user._replace(input=base) if user is not None and user.name is not None else user
