"""A whole file op: its actions one after the other, on one tree (BuildKit: solver/llbsolver/ops/file.go)."""

from __future__ import annotations

from inlay.actions.files.action import plan_action
from inlay.actions.files.copying import CopyOptions, plan_copy
from inlay.actions.files.entries import Destination
from inlay.actions.files.noting import NotedLayer, Unnoted
from inlay.actions.files.ownership import find_owner
from inlay.actions.files.writing import WritableTree
from inlay.errors import SolveError
from inlay.golang.timestamp import now_ns
from inlay.llb.ops import EMPTY, Copy, FileOp
from inlay.progress.events import Warned
from inlay.refs.ref import SCRATCH, Ref
from inlay.tasks import in_thread
from inlay.trees.tree import Tree
from inlay.typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from inlay.actions.files.entries import Plan, PlannedEntry
    from inlay.actions.worker import Result, Worker
    from inlay.llb.graph import Vertex
    from inlay.llb.ops import FileAction
    from inlay.refs.ref import Layer

    Trees = Mapping[int, Tree | None]


class Target(Destination, Protocol):
    """Where actions are done: in a folder, or on paper."""

    def carry_out(self, plan: Iterable[PlannedEntry]) -> None: ...

    def users(self) -> Tree | None:
        """A tree to look users up in, as they are now; None where there are none."""


async def run_file(worker: Worker, vertex: Vertex, op: FileOp, inputs: Sequence[Result]) -> Ref:
    """Carry out the actions of `op`; return the tree that comes out, on which they are one layer."""
    first, actions = chain(op, len(inputs))
    base = SCRATCH if first == EMPTY else await worker.as_layers(inputs[first])
    read = {index for action in actions for index in read_by(action, len(inputs))}
    trees = {index: await worker.tree(inputs[index]) for index in read}
    forms = worker.forms(vertex)
    noted = await _note(worker, actions, trees, base)
    if noted is None:
        layer = await _in_folder(worker, vertex, actions, trees, base)
    else:
        layer = await worker.refs.add_planned(
            noted.layer,
            base=base,
            codec=forms.codec,
            mounted=forms.mounted or forms.codec is None or not noted.is_whole_in_archive,
            description=vertex.name,
            created_ns=worker.clock(),
        )
    return Ref((*base.layers, layer))


async def _note(worker: Worker, actions: Sequence[FileAction], trees: Trees, base: Ref) -> NotedLayer | None:
    """What `actions` do to `base`, if that can be told without doing it."""
    tree, planned = await worker.refs.mounted.stack(base)
    noted = NotedLayer(tree, planned, now_ns=now_ns())
    try:
        with noted:
            await in_thread(perform, actions, trees, noted, limiter=worker.disk)
    except Unnoted:
        return None
    return noted


async def _in_folder(
    worker: Worker, vertex: Vertex, actions: Sequence[FileAction], trees: Trees, base: Ref
) -> Layer:
    """Do `actions` on a copy of `base`."""
    active = await worker.refs.mounted.prepare(base)

    def write() -> list[str]:
        with WritableTree.at(active.path) as target:
            perform(actions, trees, target)
            return target.left_out

    try:
        left_out = await in_thread(write, limiter=worker.disk)
        if left_out:
            message = (
                f"{len(left_out)} device nodes are left out, such as {left_out[0]}: only root can make them"
            )
            worker.emit(Warned(str(vertex.digest), message))
        directory = await in_thread(active.commit, limiter=worker.disk)
    except BaseException:
        await in_thread(active.discard)
        raise
    return worker.refs.add_directory(directory, description=vertex.name, base=base, created_ns=worker.clock())


def chain(op: FileOp, count: int) -> tuple[int, list[FileAction]]:
    """The input that the output's actions start from, and those actions in order.

    `count` is the number of the op's inputs; what an action gives has the numbers after them.
    """
    at = next((index for index, action in enumerate(op.actions) if action.output == 0), None)
    if at is None:
        raise SolveError("no outputs specified")
    actions: list[FileAction] = []
    while True:
        action = op.actions[at]
        actions.append(action)
        if action.input < count:
            return action.input, actions[::-1]
        at = action.input - count
        if at >= len(op.actions) or len(actions) > len(op.actions):
            raise SolveError(f"invalid input index {action.input}, {count + len(op.actions)} provided")


def read_by(action: FileAction, count: int) -> set[int]:
    """The inputs that an action reads, besides the tree that it changes."""
    owner = getattr(action.action, "owner", None)
    read = {user.input for user in owner or () if user is not None and user.name is not None}
    read.discard(action.input)
    if isinstance(action.action, Copy):
        read.add(action.secondary_input)
    read.discard(EMPTY)
    if any(index >= count for index in read):
        raise SolveError("a file action that reads what another one of its op wrote is not supported")
    return read


def perform(actions: Sequence[FileAction], trees: Trees, target: Target) -> None:
    """Do `actions` on `target`. A tree of None is empty."""
    with _Inputs(trees) as read:
        for action in actions:

            def owner_tree(index: int, changed: int = action.input) -> Tree:
                return (target.users() if index == changed else None) or read.tree(index)

            owner = find_owner(getattr(action.action, "owner", None), owner_tree)
            source = read.tree(action.secondary_input) if isinstance(action.action, Copy) else None
            _carry_out(plan_action(action.action, target, source=source, owner=owner), target)


def _carry_out(plan: Plan, target: Target) -> None:
    try:
        target.carry_out(plan)
    finally:
        plan.close()  # else the error that ended it would keep folders open


class _Inputs:
    """The trees that actions read. One of None is empty."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._empty: Tree | None = None

    def tree(self, index: int) -> Tree:
        tree = self._trees.get(index)
        if tree is not None:
            return tree
        if self._empty is None:
            self._empty = Tree.empty()
        return self._empty

    def __enter__(self) -> _Inputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._empty is not None:
            self._empty.close()


def copy_tree(source: Tree, path: str, *, owner: tuple[int, int] | None = None) -> None:
    """Copy all of `source` into the folder `path`. With `owner` (uid, gid) it all belongs to that one."""
    with WritableTree.at(path) as target:
        _carry_out(plan_copy(source, "/", target, "/", CopyOptions(contents_only=True, owner=owner)), target)
