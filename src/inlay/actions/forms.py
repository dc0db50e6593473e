"""In which forms the results of steps are wanted, so that each is made once, and none for nothing.

A layer that enters the image is wanted as a blob, one that a step mounts or reads as a directory; many are
only one of these. It is told by the graph alone, before anything runs: whatever turns out to be wanted all the
same is made of the form that there is.
"""

from __future__ import annotations

from inlay.actions.files.op import chain
from inlay.actions.worker import Forms
from inlay.errors import SolveError
from inlay.llb.ops import EMPTY, ExecOp, FileOp
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.archive.codecs import Codec
    from inlay.llb.graph import Definition, Vertex


def wanted_forms(
    definitions: Sequence[Definition], targets: Forms, *, others: Codec | None = None
) -> dict[str, Forms]:
    """The forms of all vertices' own layers, by digest: the targets' are wanted as `targets`, and those of all
    other steps packed by `others`, if that is given."""
    forms: dict[str, Forms] = {}
    for definition in definitions:
        if definition.target is not None:
            _want(forms, str(definition.target.vertex.digest), targets)
        for vertex in reversed(definition.vertices):
            _want(forms, str(vertex.digest), Forms(others, mounted=False))
            own = forms[str(vertex.digest)]
            for index, edge in enumerate(vertex.inputs):
                _want(forms, str(edge.vertex.digest), _input_forms(vertex, index, own))
    return forms


def _want(forms: dict[str, Forms], digest: str, more: Forms) -> None:
    known = forms.get(digest, more)
    forms[digest] = Forms(
        known.codec or more.codec, known.mounted or more.mounted, known.is_run_on or more.is_run_on
    )


def _input_forms(vertex: Vertex, index: int, own: Forms) -> Forms:
    """How an input is wanted for a result that is wanted as `own`."""
    op = vertex.op
    if isinstance(op, ExecOp):
        is_root = any(mount.dest == "/" and mount.input == index for mount in op.mounts)
        return Forms(own.codec if is_root else None, mounted=True, is_run_on=True)
    if isinstance(op, FileOp):
        is_base = _base_of(op, len(vertex.inputs)) == index
        return own if is_base else Forms(None, mounted=True, is_run_on=own.is_run_on)
    return own


def _base_of(op: FileOp, count: int) -> int:
    try:
        return chain(op, count)[0]
    except SolveError:  # which will be told when it is run
        return EMPTY
