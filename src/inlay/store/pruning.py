"""Deleting what is no longer wanted from a store (`inlay prune`, `inlay image rm`).

No build runs meanwhile, and none can break afterwards: a record that lost a layer goes with it, so the step
runs again. Names go before bytes: what is killed in between leaves leftovers, which the next time deletes.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time

from inlay.actions.cachemounts import remove_cache_folder, sweep_cache_folders
from inlay.digest import Digest
from inlay.errors import InlayError, UsageError
from inlay.layout import IMAGE_NAME, LayoutFolder
from inlay.notation import parse_age
from inlay.oci.descriptor import REF_NAME
from inlay.oci.referrers import is_referrers_tag
from inlay.reference import parse as parse_reference
from inlay.snapshot.snapshotter import LayerDirs
from inlay.store.usage import (
    CACHE_MOUNT,
    GIT,
    IMAGE,
    KINDS,
    LAYER,
    LEFTOVER,
    MEMORY,
    Survey,
    images_in,
    tree_roots,
)
from inlay.system.filebytes import sweep_partial_files
from inlay.trees.rooted import remove_tree
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inlay.oci.descriptor import Descriptor
    from inlay.store.store import Store
    from inlay.store.usage import Item

KEEP_S = 60 * 24 * 3600.0
"""What no build has used for so long goes by itself; `INLAY_KEEP` is another duration, 0 is for ever."""
FORGET_AFTER_S = 90 * 24 * 3600.0
"""Notes that no build has touched for so long go with every prune."""

_KINDS = {
    **{kind: kind for kind in KINDS if kind != IMAGE},
    "regular": LAYER,
    "exec.cachemount": CACHE_MOUNT,
    "source.local": MEMORY,
    "source.git.checkout": GIT,
    "internal": MEMORY,
}
"""The kinds that can be asked for, under inlay's names and BuildKit's."""


class Policy(NamedTuple):
    """What to delete. Without anything said: all that no image with a name is made of, but for what was
    learned (`memory`); `everything` takes that too, and all but the blobs of those images.

    `kinds` narrows it (empty: all), and `ids` to items whose ids begin with one of them; `unused_for_s` to what
    was not used for so long. `max_used_space` bytes may stay: what was not used for longest goes first.
    """

    everything: bool = False
    kinds: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    unused_for_s: float = 0.0
    max_used_space: int | None = None


def parse_kind(text: str) -> str:
    """A kind by inlay's name or BuildKit's. Raises `UsageError`."""
    if text not in _KINDS:
        raise UsageError(f"there is no type {text!r} of things to prune; there are: {', '.join(_KINDS)}")
    return _KINDS[text]


def choose(survey: Survey, policy: Policy, now: float) -> list[Item]:
    """The items that `policy` wants deleted. What hangs on them goes with them (see `prune`)."""
    items = [item for item in survey.items if item.kind != IMAGE]
    eligible = [item for item in items if _is_wanted(item, policy, now)]
    if policy.max_used_space is None:
        return eligible
    depths = survey.depths()
    eligible.sort(key=lambda item: (item.kind != LEFTOVER, int(item.used), -depths.get(item.id, 0)))
    excess = sum(item.size for item in items) - policy.max_used_space
    chosen = []
    for item in eligible:
        if excess <= 0:
            break
        chosen.append(item)
        excess -= item.size
    return chosen


def _is_wanted(item: Item, policy: Policy, now: float) -> bool:
    if policy.kinds and item.kind not in policy.kinds:
        return False
    if policy.ids and not any(item.id.startswith(each) or item.description == each for each in policy.ids):
        return False
    if item.used > now - policy.unused_for_s:
        return False
    spared = item.shared or item.kind == MEMORY
    return not spared or policy.everything or item.kind in policy.kinds


@contextlib.contextmanager
def _alone(store: Store, *, wait: bool) -> Iterator[bool]:
    """Keep all builds out of the block. Without `wait`: only if there are none; gives whether that is so."""
    try:
        yield store.take_lease(wait=wait)
    finally:
        store.share_lease()  # what was tried may have let go of it


def prune(
    store: Store, policy: Policy, *, dry_run: bool = False, warn: Callable[[str], None] = lambda message: None
) -> list[Item]:
    """Delete what `policy` says and what cannot be without it; return what was, or would be, deleted.

    Waits for running builds to end, but for a dry run.
    """
    if dry_run:
        return _Pruning(store, policy).doomed
    with _alone(store, wait=True):
        pruning = _Pruning(store, policy)
        pruning.carry_out(warn)
    return pruning.doomed


def prune_to_policy(store: Store, *, warn: Callable[[str], None]) -> None:
    """Delete what was not used for `KEEP_S`, unless a build runs. Never waits or fails."""
    from _sqlite3 import Error as DatabaseError

    keep = os.environ.get("INLAY_KEEP", "")
    try:
        keep_s = KEEP_S if not keep else 0.0 if keep == "0" else parse_age(keep, "INLAY_KEEP")
        if not keep_s:
            return
        with _alone(store, wait=False) as alone:
            if alone:
                os.utime(f"{store.root}/pruned")
                _Pruning(store, Policy(unused_for_s=keep_s), sized=False).carry_out(warn)
    except (OSError, DatabaseError, InlayError) as error:
        warn(f"{store.root} was not pruned: {error}")


class _Pruning:
    """What goes and what stays; then, with no build about, the deed."""

    def __init__(self, store: Store, policy: Policy, *, sized: bool = True) -> None:
        self._store = store
        self._everything = policy == Policy(everything=True)
        self._survey = survey = Survey(store, sized=sized)
        chosen = choose(survey, policy, time.time())
        doomed = set(survey.rows) if self._everything else {each.id for each in chosen} & survey.rows.keys()
        before = survey.living_layers(survey.living_trees())
        self._trees = survey.living_trees(without=doomed)
        self._layers = survey.living_layers(self._trees)
        gone = before - self._layers
        ids = {item.id for item in chosen}
        self.doomed = [*chosen, *(item for item in survey.items if item.id in gone - ids)]

    def carry_out(self, warn: Callable[[str], None]) -> None:
        self._drop_names()
        for item in self.doomed:
            try:
                self._delete(item)
            except OSError as error:
                warn(f"{item.id} cannot be deleted: {(error.strerror or str(error)).lower()}")
        for base in tree_roots(self._store.root):
            dirs = LayerDirs(f"{base}/snapshots")
            dirs.drop_merged(stale_only=not self._everything)
            sweep_cache_folders(base)
            if os.path.isdir(f"{dirs.root}/new"):
                dirs.sweep()
        _forget_old_notes(self._store.root)

    def _drop_names(self) -> None:
        """Forget the records, trees and layers that are to go, and layers that neither are here nor wanted."""
        survey, store = self._survey, self._store
        store.cache.drop_results(survey.results - self._trees)
        gone = {item.id for item in self.doomed}
        here = {item.id for item in survey.items}
        rows = [key for key in survey.rows.keys() - self._layers if key in gone or key not in here]
        trees = survey.trees.keys() - self._trees
        kept = [row for key, row in survey.rows.items() if key not in set(rows)]
        self._kept_directories = {row.directory for row in kept}
        self._kept_blobs = {str(blob.digest) for row in kept if (blob := row.descriptor()) is not None}
        store.layers.execute("BEGIN IMMEDIATE")
        store.layers.executemany("DELETE FROM tree WHERE id = ?", [(name,) for name in trees])
        store.layers.executemany("DELETE FROM layer WHERE key = ?", [(key,) for key in rows])
        store.layers.execute("COMMIT")
        if self.doomed:
            store.layers.execute("VACUUM")
            store.cache.compact()

    def _delete(self, item: Item) -> None:
        survey = self._survey
        if item.kind == CACHE_MOUNT:
            remove_cache_folder(item.id)
        elif item.id.startswith("/"):
            remove_tree(item.id)
            if item.kind == GIT:
                remove_tree(f"{item.id}.lock")
        elif item.id in survey.rows:
            row = survey.rows[item.id]
            blob = row.descriptor()
            self._delete_parts(row.directory, str(blob.digest) if blob is not None else "")
        elif item.id in survey.directories:
            self._delete_parts(item.id, "")
        else:
            self._delete_parts("", item.id)

    def _delete_parts(self, directory: str, blob: str) -> None:
        """Delete a directory and a blob, unless an image, or a layer that stays, has them too."""
        survey = self._survey
        if directory in survey.directories and directory not in self._kept_directories:
            survey.directories[directory].dirs.remove(directory)
        if blob in survey.blobs and blob not in survey.held and blob not in self._kept_blobs:
            self._store.content.delete(Digest.parse(blob))


def _forget_old_notes(root: str) -> None:
    """Delete notes that nobody used for long, tables that were moved aside as long ago, and what was half-written
    of any file."""
    before = time.time() - FORGET_AFTER_S
    for pattern in ("journal/*", "memory/*", "http/*", "*.db.broken*"):
        for path in glob.glob(f"{glob.escape(root)}/{pattern}", include_hidden=True):
            if os.path.isfile(path) and os.stat(path).st_mtime < before:
                os.unlink(path)
    for folder in ("", "journal", "memory", "http", "runtime"):
        sweep_partial_files(f"{root}/{folder}")


# -- images ------------------------------------------------------------------------------------------------


def remove_images(store: Store, names: Sequence[str]) -> list[tuple[str, str]]:
    """Take away the names of images (or all names of one, by its digest), and what then nothing needs. What
    is of use as build cache stays until a prune. Return names and digests of the images. Raises `UsageError`
    for a name that there is not."""
    listed = LayoutFolder(store.root).images() if os.path.exists(f"{store.root}/index.json") else ()
    unwanted: set[Descriptor] = set()
    for name in names:
        found = {each for each in listed if _is_called(each, name)}
        if not found:
            raise UsageError(f"there is no image {name}; `inlay image ls` shows those that there are")
        unwanted |= found
    LayoutFolder(store.root).unlist(lambda each: each in unwanted)
    # What lies beside an image, or beside the platforms of one, goes with the last of its names.
    needed = {digest for image in images_in(store) for digest in image.digests}
    LayoutFolder(store.root).unlist(
        lambda each: is_referrers_tag(each.annotation(REF_NAME)) and str(each.digest) not in needed
    )
    with _alone(store, wait=False) as alone:
        if alone:
            _Pruning(store, Policy(kinds=(LEFTOVER,))).carry_out(lambda message: None)
    return [(_name(each), str(each.digest)) for each in listed if each in unwanted]


def _name(descriptor: Descriptor) -> str:
    return descriptor.annotation(IMAGE_NAME) or descriptor.annotation(REF_NAME)


def _is_called(descriptor: Descriptor, name: str) -> bool:
    if is_referrers_tag(descriptor.annotation(REF_NAME)):
        return False
    full = _name(descriptor)
    if name == full or name in (descriptor.digest, descriptor.digest.hex[: max(len(name), 12)]):
        return True
    try:
        reference = parse_reference(name)
    except UsageError:
        return False
    return str(reference if reference.tag or reference.digest else reference._replace(tag="latest")) == full
