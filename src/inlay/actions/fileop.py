"""A whole file op: its actions one after another, on one tree (BuildKit: solver/llbsolver/ops/file.go)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.actions.file import plan_action
from inlay.actions.ownership import find_owner
from inlay.actions.writing import WritableTree
from inlay.archive.tree import Tree
from inlay.errors import SolveError
from inlay.llb.ops import EMPTY, NO_OUTPUT, Copy, FileOp, Remove
from inlay.refs import SCRATCH, Ref
from inlay.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.actions.worker import Result, Worker
    from inlay.llb.graph import Vertex
    from inlay.llb.ops import FileAction


async def run_file(worker: Worker, vertex: Vertex, op: FileOp, inputs: Sequence[Result]) -> Ref:
    """Carry out the actions of `op`; return the tree that comes out."""
    base_index = _base_input(op, len(inputs))
    base = SCRATCH if base_index == EMPTY else await worker.as_layers(inputs[base_index])
    trees = {i: await worker.tree(inputs[i]) for i in _read_inputs(op, len(inputs))}
    active = await worker.refs.prepare(base)
    try:
        await in_thread(_perform, op, active.path, lambda i: trees.get(i), len(inputs), limiter=worker.disk)
        directory = await in_thread(active.commit, limiter=worker.disk)
    except BaseException:
        await in_thread(active.discard)
        raise
    layer = worker.refs.add_directory(
        directory, description=vertex.name, base=base, created_ns=worker.clock()
    )
    return Ref((*base.layers, layer))


def _base_input(op: FileOp, count: int) -> int:
    """The input that the actions change, which must be a chain with one output."""
    if not op.actions:
        raise SolveError("a file op without actions")
    for number, action in enumerate(op.actions):
        expected = op.actions[0].input if number == 0 else count + number - 1
        last = number == len(op.actions) - 1
        if action.input != expected or (action.output == NO_OUTPUT) == last:
            raise SolveError("a file op whose actions are no chain is not supported")
    return op.actions[0].input


def _read_inputs(op: FileOp, count: int) -> set[int]:
    """The inputs that actions read from, or look owners up in."""
    wanted = {action.secondary_input for action in op.actions if isinstance(action.action, Copy)}
    for each in op.actions:
        if isinstance(each.action, Remove) or each.action.owner is None:
            continue
        owner = each.action.owner
        wanted |= {user.input for user in owner if user is not None and user.name is not None}
    return {i for i in wanted if 0 <= i < count}


def _perform(op: FileOp, path: str, tree_of: Callable[[int], Tree | None], count: int) -> None:
    with WritableTree.at(path) as target, Tree.at(path) as own:
        for each in op.actions:
            _perform_action(each, target, own, tree_of, count)


def _perform_action(
    each: FileAction, target: WritableTree, own: Tree, tree_of: Callable[[int], Tree | None], count: int
) -> None:
    action = each.action

    def owner_tree(i: int) -> Tree:
        # A name is looked up in what the tree is now when it names the tree that is changed.
        return own if i == each.input or i >= count else tree_of(i) or own

    owner = None if isinstance(action, Remove) else find_owner(action.owner, owner_tree)
    source = own
    if isinstance(action, Copy) and each.secondary_input < count:
        # Nothing there is scratch: an empty tree to copy from.
        source = tree_of(each.secondary_input) or _empty_tree()
    target.carry_out(plan_action(action, target, source=source, owner=owner))


def _empty_tree() -> Tree:
    """What scratch looks like to a copy."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="inlay-scratch-") as folder:
        return Tree.at(folder)


def copy_tree(tree: Tree, path: str) -> None:
    """Copy all of `tree` into the folder `path`."""
    action = Copy(src="/", dest="/", copy_dir_contents=True, create_dest_path=True, mode=-1, timestamp=-1)
    with WritableTree.at(path) as target:
        target.carry_out(plan_action(action, target, source=tree))
