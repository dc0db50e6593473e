"""What takes room in a store (`inlay du`), and what of it belongs to what.

An item is what can be deleted by itself: a layer, with its directory and its blob; a cache mount; … Bytes are
counted once: those of blobs that an image with a name is made of are the image's.
"""

from __future__ import annotations

import glob
import json
import os

from inlay.actions.cachemounts import cache_folders
from inlay.errors import ContentError
from inlay.layout import IMAGE_NAME, MANIFEST_LIMIT, LayoutFolder
from inlay.oci.descriptor import INDEXES, MANIFESTS, REF_NAME
from inlay.oci.image import Index, parse_manifest
from inlay.oci.referrers import is_referrers_tag, referrers_tag
from inlay.refs.table import LayerRow
from inlay.snapshot.snapshotter import LayerDirs
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from inlay.content.store import StoredBlob
    from inlay.oci.descriptor import Descriptor
    from inlay.store.store import Store

IMAGE, LAYER, CACHE_MOUNT, DOWNLOAD, GIT, MEMORY, LEFTOVER = KINDS = (
    "image",
    "layer",
    "cachemount",
    "download",
    "git",
    "memory",
    "leftover",
)
"""`memory` is what was learned of files and steps; a `leftover` nothing refers to any more."""


class Item(NamedTuple):
    """One thing in the store. `used` is when it was last used or made, in seconds since 1970.

    `id` is a layer's key, a folder's path, an image's name or a blob's digest; `shared` says of a layer that
    an image with a name is made of it.
    """

    kind: str
    id: str
    size: int
    used: float
    description: str = ""
    shared: bool = False


class Tree(NamedTuple):
    """A row of the table of trees (see `refs.SCHEMA`), by its id."""

    parent: str
    layer: str
    description: str


class NamedImage(NamedTuple):
    """An image that has a name. `digests` are all blobs that it is made of, and of what refers to it; `stacks`
    the layers of each platform, lowest first."""

    descriptor: Descriptor
    digests: frozenset[str]
    stacks: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        return self.descriptor.annotation(IMAGE_NAME) or self.descriptor.annotation(REF_NAME)


class Directory(NamedTuple):
    """A layer directory on disk, and the root that it is under."""

    dirs: LayerDirs
    size: int
    used: float


class Survey:
    """Everything in a store, as it was when it was looked at. Blocks for as long as it takes to look.

    Not `sized`, all directories seem empty: finding out what they hold takes the most time.
    """

    def __init__(self, store: Store, *, sized: bool = True) -> None:
        self.rows = {row.key: row for row in _layer_rows(store.layers)}
        self.trees = _tree_rows(store.layers)
        self.results = store.cache.results()
        self.blobs = {str(blob.digest): blob for blob in store.content.blobs()}
        self.images = images_in(store)
        self.held = frozenset(digest for image in self.images for digest in image.digests)
        """Blobs of images that have a name."""
        self.directories = _directories(store.root, sized=sized)
        self.downloaded = _downloaded(store.root)
        found = [
            *_image_items(self.images, self.blobs),
            *self._layers(),
            *self._leftovers(),
            *_folders(store.root, sized=sized),
        ]
        self.items = sorted(found, key=lambda item: (KINDS.index(item.kind), -item.size, item.id))
        """All items; those of one kind by size, largest first."""

    def living_trees(self, without: Iterable[str] = ()) -> set[str]:
        """The trees that records name, and what they stand on; not those that have one of the layers
        `without`, or that are packed by one."""
        doomed = set(without)
        alive: dict[str, bool] = {"": True}
        for result in self.results:
            chain = []
            while result not in alive:
                chain.append(result)
                tree = self.trees.get(result)
                result = tree.parent if tree is not None else result
                if tree is None:
                    break
            for name in reversed(chain):
                known = self.trees.get(name)
                alive[name] = known is not None and alive[known.parent] and self._stays(known.layer, doomed)
        wanted = [name for name in self.results if alive[name]]
        living: set[str] = set()
        while wanted:
            name = wanted.pop()
            if name and name not in living:
                living.add(name)
                wanted.append(self.trees[name].parent)
        return living

    def living_layers(self, trees: Iterable[str]) -> set[str]:
        """The layers of `trees`, and those that their directories need to be packed."""
        pending, living = [self.trees[name].layer for name in trees], set[str]()
        while pending:
            key = pending.pop()
            if key not in living:
                living.add(key)
                pending += self._base(key)
        return living

    def depths(self) -> dict[str, int]:
        """How high each layer stands in a tree, at most."""
        depth: dict[str, int] = {"": 0}
        for name in self.trees:
            chain = []
            while name not in depth:
                chain.append(name)
                name = self.trees[name].parent if name in self.trees else ""
            for each in reversed(chain):
                depth[each] = depth[self.trees[each].parent] + 1 if each in self.trees else 0
        found: dict[str, int] = {}
        for name, tree in self.trees.items():
            found[tree.layer] = max(found.get(tree.layer, 0), depth[name])
        return found

    def shared_layers(self) -> set[str]:
        """The layers of trees that are an image's lowest layers."""
        place: dict[str, dict[str, Any]] = {"": {}}  # of a tree, what the images have on top of it
        for image in self.images:
            for stack in image.stacks:
                above = place[""]
                for digest in stack:
                    above = above.setdefault(digest, {})
        shared = set()
        for name in self.trees:
            chain = []
            while name in self.trees and name not in place:
                chain.append(name)
                name = self.trees[name].parent
            for each in reversed(chain):
                tree = self.trees[each]
                blob = self.rows[tree.layer].descriptor() if tree.layer in self.rows else None
                on_top = place.get(tree.parent, {}).get(str(blob.digest) if blob is not None else "")
                if on_top is not None:
                    place[each] = on_top
                    shared.add(tree.layer)
        return shared

    def _stays(self, key: str, doomed: set[str]) -> bool:
        return key in self.rows and key not in doomed and doomed.isdisjoint(self._base(key))

    def _base(self, key: str) -> list[str]:
        """The layers without which the directory of a layer cannot be packed; none if it is packed."""
        row = self.rows.get(key)
        if row is None or ((blob := row.descriptor()) is not None and str(blob.digest) in self.blobs):
            return []
        base: list[str] = json.loads(row.base)
        return base

    # -- items ---------------------------------------------------------------------------------------

    def _layers(self) -> Iterator[Item]:
        living = self.living_layers(self.living_trees())
        shared = self.shared_layers()
        described = {tree.layer: tree.description for tree in self.trees.values()}
        counted: set[str] = set()
        for row in self.rows.values():
            blob = row.descriptor()
            name = str(blob.digest) if blob is not None else ""
            directory, stored = self.directories.get(row.directory), self.blobs.get(name)
            if directory is None and stored is None:
                continue
            size = directory.size if directory is not None and row.directory not in counted else 0
            size += stored.size if stored is not None and name not in self.held and name not in counted else 0
            counted |= {row.directory, name}
            used = max(directory.used if directory else 0.0, stored.modified if stored else 0.0)
            is_download = row.directory in self.downloaded
            kind = DOWNLOAD if is_download else LAYER if row.key in living else LEFTOVER
            text = self.downloaded[row.directory] if is_download else described.get(row.key, "")
            yield Item(kind, row.key, size, used, text, shared=row.key in shared)

    def _leftovers(self) -> Iterator[Item]:
        """Directories and blobs that nothing refers to."""
        known = {row.directory for row in self.rows.values()}
        for name, directory in self.directories.items():
            if name not in known:
                kind = DOWNLOAD if name in self.downloaded else LEFTOVER
                yield Item(
                    kind, name, directory.size, directory.used, self.downloaded.get(name, "layer directory")
                )
        blobs = {str(blob.digest) for row in self.rows.values() if (blob := row.descriptor()) is not None}
        for digest, stored in self.blobs.items():
            if digest not in self.held and digest not in blobs:
                yield Item(LEFTOVER, digest, stored.size, stored.modified, "blob")


# -- looking -----------------------------------------------------------------------------------------------


def tree_roots(root: str) -> list[str]:
    """The folders that have snapshots and cache mounts: those of root, and of each mapping of users."""
    return [root, *sorted(glob.glob(f"{glob.escape(root)}/ids-*"))]


def folder_size(path: str) -> int:
    """Bytes on disk of a file, or of a folder with all that is in it, as far as it can be read."""
    try:
        size = os.lstat(path).st_blocks * 512
        with os.scandir(path) as entries:
            return size + sum(
                folder_size(entry.path)
                if entry.is_dir(follow_symlinks=False)
                else entry.stat(follow_symlinks=False).st_blocks * 512
                for entry in entries
            )
    except NotADirectoryError:
        return size
    except OSError:
        return 0


def _layer_rows(database: sqlite3.Connection) -> list[LayerRow]:
    return [LayerRow(*row) for row in database.execute("SELECT * FROM layer")]


def _tree_rows(database: sqlite3.Connection) -> dict[str, Tree]:
    rows = database.execute("SELECT id, parent, layer, description FROM tree")
    return {row[0]: Tree(*row[1:]) for row in rows}


def images_in(store: Store) -> list[NamedImage]:
    """The images that have a name, each with all that it is made of and what lies beside it."""
    if not os.path.exists(f"{store.root}/index.json"):
        return []
    layout = LayoutFolder(store.root)
    listed = layout.images()
    by_tag = {each.annotation(REF_NAME): each for each in listed}
    found = []
    for descriptor in listed:
        if is_referrers_tag(descriptor.annotation(REF_NAME)):
            continue
        digests: set[str] = set()
        stacks = []
        pending = [descriptor]
        while pending:
            each = pending.pop()
            if str(each.digest) in digests:
                continue
            digests.add(str(each.digest))
            if each.media_type in (*MANIFESTS, *INDEXES):
                parts, stack = _parts(layout, each)
                pending += parts
                stacks += [stack] if stack else []
                beside = by_tag.get(referrers_tag(each.digest))
                pending += [beside] if beside is not None else []
        found.append(NamedImage(descriptor, frozenset(digests), tuple(stacks)))
    return found


def _parts(layout: LayoutFolder, descriptor: Descriptor) -> tuple[list[Descriptor], tuple[str, ...]]:
    """What a manifest or index is made of, and the layers of a manifest."""
    try:
        manifest = parse_manifest(layout.read_blob(descriptor, MANIFEST_LIMIT), descriptor.media_type)
    except ContentError:
        return [], ()
    if isinstance(manifest, Index):
        return list(manifest.manifests), ()
    return [manifest.config, *manifest.layers], tuple(str(layer.digest) for layer in manifest.layers)


def _image_items(images: Iterable[NamedImage], blobs: Mapping[str, StoredBlob]) -> Iterator[Item]:
    """Blobs that several images have count for the first."""
    counted: set[str] = set()
    for image in images:
        size = sum(blobs[digest].size for digest in image.digests - counted if digest in blobs)
        counted |= image.digests
        top = blobs.get(str(image.descriptor.digest))
        used = top.modified if top else 0.0
        yield Item(IMAGE, image.name, size, used, str(image.descriptor.digest), shared=True)


def named_images(store: Store) -> list[Item]:
    """The images that have a name, by name; their `description` is the digest. Each is counted in full."""
    blobs = {str(blob.digest): blob for blob in store.content.blobs()}
    found = [item for image in images_in(store) for item in _image_items([image], blobs)]
    return sorted(found, key=lambda item: item.id)


def _directories(root: str, *, sized: bool) -> dict[str, Directory]:
    found = {}
    for base in tree_roots(root):
        dirs = LayerDirs(f"{base}/snapshots")
        for name in dirs.layers():
            try:
                used = os.stat(f"{dirs.root}/{name}").st_mtime
                found[name] = Directory(dirs, dirs.usage(name).size if sized else 0, used)
            except OSError:
                found[name] = Directory(dirs, 0, 0.0)
    return found


def _downloaded(root: str) -> dict[str, str]:
    """The layer directories that are downloads, each with its file's name (see `sources.downloads`)."""
    found = {}
    for path in glob.glob(f"{glob.escape(root)}/http/*"):
        try:
            with open(path, encoding="utf-8") as file:
                found.update({str(fields[2]): str(fields[1]) for fields in json.load(file)})
        except (OSError, ValueError, TypeError, LookupError):
            continue
    return found


def _folders(root: str, *, sized: bool) -> Iterator[Item]:
    """What has a folder of its own: cache mounts, git repositories, what was learned, half-made files."""
    size_of = folder_size if sized else _unknown
    for base in tree_roots(root):
        for cache in cache_folders(base):
            yield Item(CACHE_MOUNT, cache.folder, size_of(cache.folder), cache.used, cache.id)
    for path in glob.glob(f"{glob.escape(root)}/git/*"):
        if os.path.isdir(path):
            yield Item(GIT, path, size_of(path), _changed(path, f"{path}.lock"), "git repository")
    for name, what in (
        ("memory", "digests of files"),
        ("journal", "what steps were"),
        ("http", "validators"),
    ):
        if os.path.isdir(f"{root}/{name}"):
            yield Item(MEMORY, f"{root}/{name}", size_of(f"{root}/{name}"), _changed(f"{root}/{name}"), what)
    for base in tree_roots(root):
        merged = f"{base}/snapshots/merged"
        if os.path.isdir(merged) and os.listdir(merged):
            yield Item(LAYER, merged, size_of(merged), _changed(merged), "layers copied into one tree")
    for path in glob.glob(f"{glob.escape(root)}/ingest/*"):
        yield Item(LEFTOVER, path, size_of(path), _changed(path), "unfinished download")


def _unknown(path: str) -> int:
    return 0


def _changed(*paths: str) -> float:
    """When any of `paths` that is there was last changed."""
    times = [0.0]
    for path in paths:
        try:
            times.append(os.stat(path).st_mtime)
        except OSError:
            continue
    return max(times)
