"""A layer that was noted and one that was written to a folder first are the same bytes."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cancelled import stops_when_cancelled
from inlay.actions.files.action import plan_action
from inlay.actions.files.noting import NotedLayer, Unnoted
from inlay.actions.files.op import chain, perform, read_by
from inlay.actions.files.writing import WritableTree
from inlay.archive.codecs import Gzip, Uncompressed
from inlay.archive.diff import layer_entries
from inlay.archive.packing import pack_layer
from inlay.content.store import ContentStore
from inlay.errors import SolveError, SourceError
from inlay.llb.ops import (
    EMPTY,
    Action,
    Copy,
    FileAction,
    MakeDirectory,
    MakeFile,
    Owner,
    Remove,
    Symlink,
    User,
)
from inlay.snapshot.overlay import Overlay
from inlay.snapshot.snapshotter import copy_root_looks
from inlay.sources.local import LocalContext
from inlay.trees.sourcefile import Sources
from inlay.trees.tree import Tree
from recorded_trees import RecordedCase, all_cases, needs_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inlay.archive.planned import PlannedLayer
    from inlay.archive.tar import TarEntry

EPOCH = 1_600_000_000
LIMIT_NS = EPOCH * 10**9
"""No file of these tests is older by its own choice, so that what is made now has this time too."""

pytestmark = needs_root


class Both:
    """Does the same actions on paper and in overlayfs, step after step."""

    def __init__(self, folder: Path, base: Path | None) -> None:
        self._snapshots = Overlay(str(folder / "snapshots"))
        self._store = ContentStore(str(folder / "store"))
        self._layers = []
        self._base: Tree | None = None
        if base is not None:
            with self._snapshots.receive() as incoming:
                subprocess.run(["cp", "-a", f"{base}/.", incoming.directory], check=True)
                self._layers.append(incoming.commit())
            self._base = Tree.at(self._snapshots.upper(self._layers[0]))
        self._noted: list[PlannedLayer] = []

    def __enter__(self) -> Both:
        return self

    def __exit__(self, *_: object) -> None:
        if self._base is not None:
            self._base.close()

    def do(self, actions: Sequence[FileAction], trees: Mapping[int, Tree | None]) -> bool:
        """Do a step; whether it could be noted. Fails unless the archives and directories are the same."""
        try:
            noted = self._note(actions, trees)
        except Unnoted:
            return False
        except SolveError as error:
            with pytest.raises(SolveError, match=f"^{re.escape(str(error))}$"):
                self._write(actions, trees)
            return False
        archive = self._write(actions, trees)
        assert listed(self._stream(noted)) == listed(archive)
        assert self._stream(noted) == archive
        with self._snapshots.receive() as incoming:
            assert self._stream(noted, incoming.directory) == archive
            copy_root_looks(self._snapshots.upper(self._layers[-1]), incoming.directory)
            made = incoming.commit()
        for layers in ([self._layers[-1]], self._layers):
            with self._snapshots.view([*layers[:-1], made]) as ours, self._snapshots.view(layers) as theirs:
                assert described(ours.path) == described(theirs.path)
        return True

    def _note(self, actions: Sequence[FileAction], trees: Mapping[int, Tree | None]) -> PlannedLayer:
        with NotedLayer(self._base, self._noted, now_ns=time.time_ns()) as noted:
            perform(actions, trees, noted)
        self._noted.append(noted.layer)
        return noted.layer

    def _write(self, actions: Sequence[FileAction], trees: Mapping[int, Tree | None]) -> bytes:
        with self._snapshots.prepare(self._layers) as active:
            with WritableTree.at(active.path) as target:
                perform(actions, trees, target)
            layer = active.commit()
        with self._snapshots.view(self._layers) as view:
            lower = view.fd if self._layers else None
            archive = self._packed(layer_entries(self._snapshots.upper(layer), lower=lower))
        self._layers.append(layer)
        return archive

    def _stream(self, layer: PlannedLayer, directory: str = "") -> bytes:
        with Sources() as sources:
            return self._packed(layer.entries(sources), directory)

    def _packed(self, entries: Iterable[TarEntry], directory: str = "") -> bytes:
        packed = pack_layer(
            entries, self._store, Uncompressed(), mtime_limit_ns=LIMIT_NS, directory=directory
        )
        return self._store.read(packed.diff_id, 1 << 30)


def listed(archive: bytes) -> list[object]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [
            (m.name, m.type, oct(m.mode), m.uid, m.gid, m.mtime, m.size, m.linkname, m.pax_headers)
            for m in tar
        ]


def described(root: str) -> dict[str, object]:
    """All that can be told of a tree, but for times of what had none of its own."""
    found: dict[str, object] = {}
    for path in [Path(root + "/."), *Path(root + "/.").rglob("*")]:
        status = path.lstat()
        data: object = None
        if stat.S_ISREG(status.st_mode):
            data = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            data = path.readlink()
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        links = 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink
        mtime = min(status.st_mtime_ns, LIMIT_NS)
        name = str(path.relative_to(root))
        found[name] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            mtime,
            status.st_rdev,
            links,
            data,
            xattrs,
        )
    return found


@pytest.mark.parametrize("name", [name for name, case in all_cases().items() if case["file_ops"]])
def test_recorded_file_ops_give_the_same_layer_noted_or_written(name: str, tmp_path: Path) -> None:
    case = RecordedCase(name, tmp_path)
    unnoted = []
    for number, vertex in enumerate(case.files.values()):
        first, actions = chain(vertex.op, len(vertex.inputs))
        read = {index for action in actions for index in read_by(action, len(vertex.inputs))}
        trees = {index: case.open(vertex.inputs[index]) for index in read}
        base = None if first == EMPTY else case.folder(vertex.inputs[first])
        if None in trees.values() or (first != EMPTY and base is None):
            continue
        with Both(tmp_path / f"both{number}", base) as both:
            if not both.do(actions, trees):
                unnoted.append(vertex.name)
    assert set(unnoted) <= NEED_A_FOLDER


NEED_A_FOLDER = {
    "[2/5] ADD t.tar.gz /x/",
    "[3/5] ADD t.tar.gz f /y/",
    "[5/5] ADD --unpack=true t.tar.gz /q/",
    "[ 9/11] COPY f ./",
}
"""Steps that cannot be noted: archives, and a file over one that may be the same."""

NAMES = ("a", "b", "c-d", "ü", "x" * 101)
PATHS = st.lists(st.sampled_from(NAMES[:3]), min_size=0, max_size=3).map(lambda parts: "/" + "/".join(parts))
TIMES = st.sampled_from([EPOCH - 5, EPOCH - 1000, EPOCH + 10**8])
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2775])
OWNERS = st.sampled_from([(0, 0), (1000, 1000), (0, 5)])


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[str, str, int, tuple[int, int], int, str]]:
    """Paths with what is there: kind, mode, owner, time, and content or target."""
    paths = draw(st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join), max_size=6))
    return [
        (
            path,
            draw(
                st.sampled_from(
                    ["file", "file", "folder", "symlink", "hard link", "fifo", "device", "tagged"]
                )
            ),
            draw(MODES),
            draw(OWNERS),
            draw(TIMES),
            draw(st.sampled_from(["", "one", "two", "/a", "b", "../a", "a/b"])),
        )
        for path in dict.fromkeys(paths)
    ]


def lay_out(root: Path, files: list[tuple[str, str, int, tuple[int, int], int, str]]) -> Path:
    """Make the files, as far as those before leave room."""
    root.mkdir()
    made: list[tuple[Path, int]] = []
    for name, kind, mode, owner, time_s, text in files:
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if (
                path.is_symlink()
                or path.exists()
                or (root not in path.parent.resolve().parents and path.parent != root)
            ):
                continue
            if kind in ("file", "tagged"):
                path.write_text(text)
            elif kind == "folder":
                path.mkdir()
            elif kind == "symlink":
                path.symlink_to(text or "nowhere")
            elif kind == "hard link":
                first = next(
                    each for each in sorted(root.rglob("*")) if each.is_file() and not each.is_symlink()
                )
                os.link(first, path)
            elif kind == "fifo":
                os.mkfifo(path)
            else:
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except (OSError, StopIteration):
            continue
        os.chown(path, *owner, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(mode)
        if kind == "tagged":
            os.setxattr(path, "trusted.note" if text == "two" else "user.note", b"1")
            os.setxattr(
                path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
            )
        made.append((path, time_s))
    for path, time_s in reversed(made):
        os.utime(path, (time_s, time_s), follow_symlinks=False)
    return root


def test_folders_on_the_way_keep_their_times(tmp_path: Path) -> None:
    (tmp_path / "base/a/b/c").mkdir(parents=True)
    for name in ("a/b/c", "a/b", "a"):
        os.utime(tmp_path / "base" / name, (EPOCH - 1000, EPOCH - 1000))
    make = MakeDirectory("/a/b/d", 0o755, make_parents=True, owner=None, timestamp=(EPOCH - 5) * 10**9)
    with Both(tmp_path / "both", tmp_path / "base") as both:
        for action in (MakeFile("/a/b/c/f", 0o644, b"", owner=None, timestamp=-1), make):
            assert both.do([FileAction(0, EMPTY, action=action)], {})


OWNER = st.sampled_from([None, Owner(User(id=7), User(id=8))])
COPIES = st.builds(
    Copy,
    src=PATHS,
    dest=PATHS.flatmap(lambda path: st.sampled_from([path, path.rstrip("/") + "/"])),
    owner=OWNER,
    mode=st.sampled_from([-1, -1, 0o640]),
    follow_symlink=st.booleans(),
    copy_dir_contents=st.booleans(),
    create_dest_path=st.just(True),
    timestamp=st.sampled_from([-1, -1, (EPOCH - 77) * 10**9]),
    exclude_patterns=st.sampled_from([(), ("a",), ("**/b",)]),
    replace_existing=st.booleans(),
    **{
        name: st.just(Copy()._asdict()[name])
        for name in ("unpack", "include_patterns", "mode_text", "required_paths")
    },
)
ACTIONS = st.one_of(
    COPIES,
    COPIES,
    COPIES,
    st.builds(MakeDirectory, PATHS, MODES, st.booleans(), owner=st.none(), timestamp=st.just(-1)),
    st.builds(MakeFile, PATHS, MODES, st.sampled_from([b"", b"text"]), owner=OWNER, timestamp=st.just(-1)),
    st.builds(Symlink, st.sampled_from(["/a", "b", "../c-d"]), PATHS, owner=OWNER, timestamp=st.just(-1)),
    st.builds(Remove, PATHS, st.just(True), st.just(False)),
)


@settings(
    max_examples=100, deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck)
)
@given(
    base=st.none() | trees(),
    source=trees(),
    steps=st.lists(st.lists(ACTIONS, min_size=1, max_size=2), min_size=1, max_size=3),
)
def test_any_actions_give_the_same_layer_noted_or_written(
    tmp_path_factory: pytest.TempPathFactory,
    base: list[tuple[str, str, int, tuple[int, int], int, str]] | None,
    source: list[tuple[str, str, int, tuple[int, int], int, str]],
    steps: list[list[Action]],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    below = None if base is None else lay_out(folder / "base", base)
    try:
        with Tree.at(str(lay_out(folder / "source", source))) as taken, Both(folder, below) as both:
            for step in steps:
                if not both.do([FileAction(0, 1, action=action) for action in step], {1: taken}):
                    break
    finally:
        shutil.rmtree(folder)


def test_a_step_that_is_stopped_leaves_no_blob(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/f").write_bytes(bytes(5 << 20))
    store = ContentStore(str(tmp_path / "store"))
    with (
        Tree.at(str(tmp_path / "source")) as taken,
        NotedLayer(None, [], now_ns=0) as noted,
        Sources() as sources,
    ):
        noted.carry_out(
            plan_action(
                Copy("/", "/", mode=-1, timestamp=-1, create_dest_path=True, copy_dir_contents=True),
                noted,
                source=taken,
            )
        )
        assert stops_when_cancelled(lambda: pack_layer(noted.layer.entries(sources), store, Gzip()))
    assert not list(store.blobs())
    assert not [name for _, _, names in os.walk(tmp_path / "store") for name in names]


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize("to_directory", [False, True])
def test_a_file_that_changes_before_it_is_read_is_an_error(
    tmp_path: Path, size: int, to_directory: bool
) -> None:
    file = tmp_path / "source/f"
    file.parent.mkdir()
    file.write_bytes(bytes(size))
    store = ContentStore(str(tmp_path / "store"))
    (tmp_path / "layer").mkdir()
    directory = str(tmp_path / "layer") if to_directory else ""
    with (
        LocalContext(str(tmp_path / "source")) as taken,
        NotedLayer(None, [], now_ns=0) as noted,
        Sources() as sources,
    ):
        noted.carry_out(
            plan_action(Copy("/f", "/f", mode=-1, timestamp=-1, create_dest_path=True), noted, source=taken)
        )
        file.write_bytes(bytes(size + 1))
        with pytest.raises(SourceError, match="/f changed during the build; build again"):
            pack_layer(noted.layer.entries(sources), store, Gzip(), directory=directory)
    assert not list(store.blobs())


def test_names_of_users_are_looked_up_in_the_base(tmp_path: Path) -> None:
    (tmp_path / "base/etc").mkdir(parents=True)
    (tmp_path / "base/etc/passwd").write_text("app:x:77:78::/:\n")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/f").write_text("f")
    named = Owner(User("app", input=0))
    copy = Copy("/f", "/f", owner=named, mode=-1, timestamp=-1, create_dest_path=True)
    with Tree.at(str(tmp_path / "source")) as taken, Both(tmp_path, tmp_path / "base") as both:
        assert both.do([FileAction(0, 1, action=copy)], {1: taken})
        users = MakeFile("/etc/passwd", 0o644, b"app:x:1:1::/:\n", timestamp=-1)
        assert both.do([FileAction(0, action=users)], {})
        assert not both.do([FileAction(0, 1, action=copy)], {1: taken})
