"""A whole file op: its actions one after the other, on one tree (BuildKit: solver/llbsolver/ops/file.go)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from inlay.actions.copying import CopyOptions, plan_copy
from inlay.actions.file import plan_action
from inlay.actions.ownership import find_owner
from inlay.actions.writing import WritableTree
from inlay.archive.tree import Tree
from inlay.errors import SolveError
from inlay.llb.ops import EMPTY, Copy, FileOp
from inlay.refs import SCRATCH, Ref
from inlay.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inlay.actions.worker import Result, Worker
    from inlay.llb.graph import Vertex
    from inlay.llb.ops import FileAction


async def run_file(worker: Worker, vertex: Vertex, op: FileOp, inputs: Sequence[Result]) -> Ref:
    """Carry out the actions of `op`; return the tree that comes out, on which they are one layer."""
    first, actions = chain(op, len(inputs))
    base = SCRATCH if first == EMPTY else await worker.as_layers(inputs[first])
    read = {index for action in actions for index in read_by(action, len(inputs))}
    trees = {index: await worker.tree(inputs[index]) for index in read}
    active = await worker.refs.prepare(base)
    try:
        await in_thread(perform, actions, trees, active.path, limiter=worker.disk)
        directory = await in_thread(active.commit, limiter=worker.disk)
    except BaseException:
        await in_thread(active.discard)
        raise
    layer = worker.refs.add_directory(
        directory, description=vertex.name, base=base, created_ns=worker.clock()
    )
    return Ref((*base.layers, layer))


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


def perform(actions: Sequence[FileAction], trees: Mapping[int, Tree | None], path: str) -> None:
    """Do `actions` on the folder `path`. A tree of None is empty."""
    with ExitStack() as stack:
        empty = stack.enter_context(Tree.empty())
        target = stack.enter_context(WritableTree.at(path))
        own = stack.enter_context(Tree.at(path))
        for action in actions:

            def owner_tree(index: int, changed: int = action.input) -> Tree:
                return own if index == changed else trees.get(index) or empty

            owner = find_owner(getattr(action.action, "owner", None), owner_tree)
            source = trees.get(action.secondary_input) or empty
            target.carry_out(plan_action(action.action, target, source=source, owner=owner))


def copy_tree(source: Tree, path: str, *, owner: tuple[int, int] | None = None) -> None:
    """Copy all of `source` into the folder `path`. With `owner` (uid, gid) it all belongs to that one."""
    with WritableTree.at(path) as target:
        target.carry_out(plan_copy(source, "/", target, "/", CopyOptions(contents_only=True, owner=owner)))
