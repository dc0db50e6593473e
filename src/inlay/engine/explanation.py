"""Why each step ran, in sentences: what the caches say (`solver.explain`), told with what the journal
remembers of steps, files and base images. Nothing is guessed: what only a digest is known of stays a digest.
"""

from __future__ import annotations

import stat as mode_bits

from inlay.actions.step import Step
from inlay.llb.keys import cache_map, pre_image
from inlay.llb.ops import SourceOp
from inlay.oci.descriptor import DESCRIPTION
from inlay.platform import host
from inlay.request import Change, Explanation
from inlay.solver.explain import (
    APART,
    BARE,
    CONTENT,
    ELSEWHERE,
    GONE,
    IGNORED,
    NEW,
    RAN,
    SOURCE,
    explain,
    step_key,
    steps_on,
)
from inlay.solver.keys import Link, is_random
from inlay.solver.vertex import Edge
from inlay.store.journal import StepNote
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inlay.actions.worker import Result
    from inlay.llb.keys import ContentSelector
    from inlay.request import StepOutcome
    from inlay.solver.explain import Cause
    from inlay.solver.keys import KeyId, RecordGraph
    from inlay.solver.solver import Solver
    from inlay.store.journal import Journal
    from inlay.trees.listing import File, FileChange, Listing
    from inlay.trees.tree import Tree

MAX_CANDIDATES = 256
MAX_FIELDS = 4
"""Steps that differ in more fields than this are different steps, rather than one that has changed."""
_DIGEST_SHOWN = 19


# -- remembering -------------------------------------------------------------------------------------------


def remember(solver: Solver[Result], steps: Iterable[Step], journal: Journal) -> None:
    """Note what `steps` were and what they were done with, as far as this solve came to know it. Blocks."""
    for step in steps:
        if not solver.is_mapped(step):
            continue
        if isinstance(step.vertex.op, SourceOp):
            name, _, pin = _pinned(step)
            if pin:
                journal.keep_pin(name, pin)
        else:
            _remember_step(solver, step, journal)


def _remember_step(solver: Solver[Result], step: Step, journal: Journal) -> None:
    key = step_key(solver, Edge(step))
    known = journal.step(key)
    note = known._replace(name=step.vertex.name) if known else _note_of(step)
    for i, below in enumerate(step.inputs):
        content = solver.content_of(step, i)
        if content is None or is_random(content):
            continue
        note = note.with_content(i, content)
        selectors, result = _selectors(step)[i], solver.result_of(below)
        if selectors is not None and result is not None and not journal.has_files(content):
            listing = _listing(step.opened(result), selectors)
            if listing is not None:
                journal.keep_files(content, listing)
    if note != known:
        journal.keep_step(key, note)


def _listing(tree: Tree | None, selectors: Sequence[ContentSelector]) -> Listing | None:
    from inlay.trees.listing import list_content

    return list_content(tree, selectors) if tree is not None else {}


def _note_of(step: Step) -> StepNote:
    vertex = step.vertex
    paths = dict.fromkeys(
        path for each in _selectors(step) if each for selector in each for path in _paths(selector)
    )
    pre = pre_image(vertex.op, vertex.platform or host(), len(step.inputs))
    return StepNote(vertex.name, pre, tuple(paths))


def _paths(selector: ContentSelector) -> Sequence[str]:
    return selector.include_patterns or (selector.path,)


def _selectors(step: Step) -> list[tuple[ContentSelector, ...] | None]:
    vertex = step.vertex
    keys = cache_map(vertex.op, vertex.platform or host(), len(step.inputs))
    return [each.content for each in keys.inputs]


def _pinned(step: Step) -> tuple[str, str, str]:
    """The name of a source for its platform, how it is shown, and what it is pinned to if that shows."""
    op = step.vertex.op
    assert isinstance(op, SourceOp)
    pin = ""
    if op.scheme in ("docker-image", "oci-layout"):
        shown, _, pin = op.identifier.partition("://")[2].partition("@")
    else:
        from inlay.registry.url import shown_url

        shown = shown_url(op.identifier)
    return f"{op.scheme} {shown} {step.vertex.platform or host()}", shown, pin


# -- explaining --------------------------------------------------------------------------------------------


class Explainer:
    """Explains the steps of one solve. `imports` are the caches that were imported into it, by name."""

    def __init__(
        self,
        solver: Solver[Result],
        steps: Sequence[Step],
        journal: Journal,
        *,
        imports: Sequence[tuple[str, Sequence[RecordGraph]]] = (),
        no_cache: bool = False,
        blank: bool = False,
    ) -> None:
        """`no_cache`: whether all of the cache was not to be used; `blank`: whether there was none."""
        self._solver = solver
        self._steps = steps
        self._journal = journal
        self._imports = imports
        self._no_cache = no_cache
        self._blank = blank
        self._ran = "would have to run" if solver.missing else "ran"
        self._own = {step_key(solver, Edge(step)) for step in steps if solver.is_mapped(step)}

    def explained(self, outcomes: Mapping[str, StepOutcome]) -> tuple[StepOutcome, ...]:
        """`outcomes` of steps by digest, in the Dockerfile's order, with the reasons of those that were not cached."""
        return tuple(
            outcome if outcome.outcome == "cached" else outcome._replace(explanation=self.explain(step))
            for step in sorted(self._steps, key=_line)
            if (outcome := outcomes.get(step.digest)) is not None
        )

    def explain(self, step: Step) -> Explanation:
        """Why `step`, which was not found, was not."""
        causes = explain(self._solver, Edge(step))
        reasons: list[str] = []
        changes: list[Change] = []
        if ran := [_name_of(step, cause.input) for cause in causes if cause.kind == RAN]:
            reasons.append(f"made from {' and '.join(dict.fromkeys(ran))}, which {self._ran}")
        for cause in causes:
            reason, changed = self._tell(step, cause, alone=len(causes) == 1)
            reasons.append(reason)
            changes += changed
        return Explanation(tuple(filter(None, reasons)), tuple(changes))

    def _tell(self, step: Step, cause: Cause, *, alone: bool) -> tuple[str, Sequence[Change]]:
        below = _name_of(step, cause.input) if cause.input >= 0 else ""
        if cause.kind == NEW:
            return self._tell_new(step, alone=alone)
        if cause.kind == CONTENT:
            return self._tell_content(step, cause.input, below)
        if cause.kind == SOURCE and self._blank:
            return "", ()
        if cause.kind == SOURCE:
            return self._tell_source(step, cause.input)
        sentences = {
            IGNORED: "--no-cache was given" if self._no_cache else "--no-cache-filter names its stage",
            GONE: f"it was cached, but {cause.detail}",
            BARE: "a cache knows it, but keeps no layers of it: with mode=min, and in an image, only those "
            "of the image are kept; mode=max keeps all",
            APART: "each of its inputs is known, but it was never done with all of them together",
            RAN: "",  # told together
            ELSEWHERE: f"it was cached, but never on {below}",
        }
        return sentences[cause.kind], ()

    # -- the step itself -----------------------------------------------------------------------------

    def _tell_new(self, step: Step, *, alone: bool) -> tuple[str, Sequence[Change]]:
        if self._blank and not all(edge.vertex.inputs for edge in step.inputs):
            return "there is nothing in any cache yet", ()
        if not alone:  # it is made of something new, and that is reason enough
            return "", ()
        others = {key: at for key, at in steps_on(self._solver, Edge(step)).items() if key not in self._own}
        notes = list(filter(None, map(self._journal.step, list(others)[:MAX_CANDIDATES])))
        if changed := _least_changed(_note_of(step), notes):
            return "the step itself has changed", changed
        platform = step.vertex.platform
        new = "no cache has this step" + (f" for {platform}" if platform not in (None, host()) else "")
        seen = [Change("cached here", note.name) for note in notes]
        described = self._described(target for targets in others.values() for target in targets)
        seen += [Change("in an imported cache", text) for text in described]
        if seen:
            return f"{new}; what there is on the same input:", seen[:MAX_FIELDS]
        if others:
            count = f"{len(others)} other steps" if len(others) > 1 else "another step"
            return f"{new}; on the same input there is {count}, known by digest only", ()
        return new, ()

    def _described(self, keys: Iterable[str]) -> list[str]:
        """What imported caches say of the layers under `keys`: the instructions that made them."""
        found = dict.fromkeys(
            record.remote.descriptor.annotation(DESCRIPTION).removesuffix(" # buildkit")
            for record in self._solver.index.records(keys)
            if record.remote is not None
        )
        return [text for text in found if text][:MAX_FIELDS]

    # -- what goes in --------------------------------------------------------------------------------

    def _tell_content(self, step: Step, i: int, below: str) -> tuple[str, Sequence[Change]]:
        content, selectors = self._solver.content_of(step, i), _selectors(step)[i]
        result = self._solver.result_of(step.inputs[i])
        if content is None or selectors is None or result is None:
            return f"what it takes from {below} is in no cache", ()
        earlier = [self._journal.files(key) for key in self._cached_contents(step, i) if key != content]
        now = _listing(step.opened(result), selectors)
        nearest = _fewest_changes([listing for listing in earlier if listing is not None], now)
        if nearest is None:
            return (
                f"what it takes from {below} has changed; caches have it with other content, by digest only, "
                "and this store has not seen that"
            ), ()
        return f"what it takes from {below} has changed", [_told(change) for change in nearest]

    def _cached_contents(self, step: Step, i: int) -> list[KeyId]:
        """The contents of input `i` with which a cache has the step, as far as this store has seen them."""
        key = step_key(self._solver, Edge(step))
        note = self._journal.step(key)
        known = dict(note.contents).get(i, ()) if note is not None else ()
        return [each for each in known if self._solver.index.targets([Link(each, i, key)])]

    def _tell_source(self, step: Step, i: int) -> tuple[str, Sequence[Change]]:
        name, shown, pin = _pinned(_step(step.inputs[i]))
        earlier = [each for each in self._journal.pins(name) if each != pin]
        changes = [Change(shown, _short(earlier[-1]), _short(pin))] if earlier and pin else []
        reason = f"no cache has anything made on {shown}{'@' if pin else ''}{_short(pin)}"
        for cache, graphs in self._imports:
            roots = sum(not node.inputs for graph in graphs for node in graph)
            if roots:
                reason += f"; {cache} is of another base: none of its {roots} roots is this one"
        return reason, changes


def _least_changed(own: StepNote, notes: Iterable[StepNote]) -> list[Change]:
    """What is different from the one of `notes` that is most like `own`; nothing where that is too much."""
    from difflib import SequenceMatcher

    from inlay.llb.difference import differences, kind_of

    kind, fields = kind_of(own.pre_image), _fields(own)
    best, least = 0.0, list[Change]()
    for note in notes:
        changed = [Change(*each) for each in differences(_fields(note), fields)]
        if kind_of(note.pre_image) != kind or len(changed) > MAX_FIELDS:
            continue
        alike = SequenceMatcher(None, note.pre_image, own.pre_image, autojunk=False).ratio() - len(changed)
        if not least or alike > best:
            best, least = alike, changed
    return least


def _fields(note: StepNote) -> dict[str, str]:
    from inlay.llb.difference import fields_of

    try:
        return fields_of(note.pre_image, note.paths)
    except (ValueError, AttributeError, TypeError):
        return {}


def _name_of(step: Step, i: int) -> str:
    """Input `i` as a reader knows it."""
    below = _step(step.inputs[i])
    op = below.vertex.op
    if not isinstance(op, SourceOp):
        if not below.vertex.name:
            return "the build context"  # unpacked: no instruction stands for it
        label, bracket, rest = below.vertex.name.partition("] ")
        if label == "[internal":
            return "its inline document" if "inline document" in rest else rest
        return label + "]" if bracket else label
    if op.scheme == "local":
        name = op.identifier.partition("://")[2]
        return "the build context" if name == "context" else f"the context {name}"
    return _pinned(below)[1]


def _line(step: Step) -> int:
    return step.vertex.location.first_line if step.vertex.location is not None else 0


def _step(edge: Edge[Result]) -> Step:
    assert isinstance(edge.vertex, Step)
    return edge.vertex


def _short(digest: str) -> str:
    return digest[:_DIGEST_SHOWN]


def _fewest_changes(earlier: Iterable[Listing], now: Listing | None) -> list[FileChange] | None:
    """What changed since the one of `earlier` that is nearest to `now`; of equal ones the last."""
    from inlay.trees.listing import changes

    if now is None:
        return None
    best: list[FileChange] | None = None
    for listing in earlier:
        found = changes(listing, now)
        if found and (best is None or len(found) <= len(best)):
            best = found
    return best


def _told(change: FileChange) -> Change:
    before, after = change.before, change.after
    path = change.path[1:] or "/"
    if before is None or after is None:
        return Change(path, _looks(before), _looks(after))
    if mode_bits.S_IFMT(before.mode) != mode_bits.S_IFMT(after.mode):
        return Change(path, _looks(before), _looks(after))
    if before.mode != after.mode:
        return Change(path, f"mode {before.mode & 0o7777:04o}", f"mode {after.mode & 0o7777:04o}")
    if (before.uid, before.gid) != (after.uid, after.gid):
        return Change(path, f"owner {before.uid}:{before.gid}", f"owner {after.uid}:{after.gid}")
    if before.size != after.size:
        return Change(path, _bytes(before.size), _bytes(after.size))
    return Change(path, f"content {before.digest[:8]}", f"content {after.digest[:8]}")


def _looks(file: File | None) -> str:
    if file is None:
        return ""
    if mode_bits.S_ISREG(file.mode):
        return _bytes(file.size)
    names = {mode_bits.S_IFDIR: "folder", mode_bits.S_IFLNK: "link"}
    return names.get(mode_bits.S_IFMT(file.mode), "special file")


def _bytes(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"
