"""What every snapshotter does: one suite, run against overlayfs (both ways to mount it) and copies, these also where
overlayfs is what they lie on, as in most containers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from inlay.archive.diff import all_entries
from inlay.archive.layer import apply_entries
from inlay.archive.tar import DIRECTORY, TarEntry
from inlay.snapshot.native import Native
from inlay.snapshot.overlay import Overlay, overlay_works
from inlay.system.privileges import in_user_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from inlay.snapshot.snapshotter import LayerDir, Snapshotter

pytestmark = pytest.mark.root

SNAPSHOTTERS: dict[str, Callable[[str], Snapshotter]] = {
    "overlay": Overlay,
    "overlay-mount2": lambda root: Overlay(root, append=False),
    "native": Native,
    "native-on-overlay": Native,
}


@pytest.fixture(params=SNAPSHOTTERS)
def snapshotter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Snapshotter]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if request.param != "native" and (reason := overlay_works(str(tmp_path / "probe"))):
        pytest.skip(f"overlayfs does not work here: {reason}")
    root = tmp_path / "snapshots"
    if request.param != "native-on-overlay":
        yield SNAPSHOTTERS[request.param](str(root))
        return
    for folder in (root, *(tmp_path / name for name in ("lower", "upper", "work"))):
        folder.mkdir()
    options = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
    options += ",userxattr" if in_user_namespace() else ""
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", root], check=True)
    yield Native(str(root))
    subprocess.run(["umount", "-l", root], check=True)


def layer(snapshotter: Snapshotter, below: Iterable[LayerDir] = (), **files: str | None) -> LayerDir:
    """Commit a layer on `below` in which `files` have these texts, or are removed where it is None."""
    with snapshotter.prepare(list(below)) as active:
        for name, text in files.items():
            if text is None:
                os.unlink(f"{active.path}/{name}")
            else:
                with open(f"{active.path}/{name}", "w", encoding="utf-8") as file:
                    file.write(text)
        return active.commit()


def seen(snapshotter: Snapshotter, layers: Iterable[LayerDir]) -> dict[str, str]:
    """The files at the top of the tree that `layers` make, and their texts."""
    with snapshotter.view(list(layers)) as view:
        texts = {}
        for name in sorted(os.listdir(view.path)):
            with open(f"{view.path}/{name}", encoding="utf-8") as file:
                texts[name] = file.read()
        return texts


def test_the_topmost_layer_wins(snapshotter: Snapshotter) -> None:
    one = layer(snapshotter, a="1", b="1")
    two = layer(snapshotter, [one], b="2", c="2")
    assert seen(snapshotter, [one, two]) == {"a": "1", "b": "2", "c": "2"}
    assert seen(snapshotter, [one]) == {"a": "1", "b": "1"}


def test_what_was_removed_is_hidden_and_may_come_back(snapshotter: Snapshotter) -> None:
    one = layer(snapshotter, a="1", b="1")
    two = layer(snapshotter, [one], a=None)
    three = layer(snapshotter, [one, two], a="3")
    assert seen(snapshotter, [one, two]) == {"b": "1"}
    assert seen(snapshotter, [one, two, three]) == {"a": "3", "b": "1"}


def test_what_did_not_change_is_told_by_a_view_of_the_callers_too(snapshotter: Snapshotter) -> None:
    one = layer(snapshotter, a="1", b="1")
    with snapshotter.view([one]) as lower, snapshotter.prepare([one]) as active:
        os.utime(f"{active.path}/a", ns=(os.stat(f"{lower.path}/a").st_mtime_ns,) * 2)
        with open(f"{active.path}/b", "w", encoding="utf-8") as file:
            file.write("2")
        two = active.commit(lower)
        assert sorted(os.listdir(lower.path)) == ["a", "b"]
    assert os.listdir(snapshotter.upper(two)) == ["b"]
    assert seen(snapshotter, [one, two]) == {"a": "1", "b": "2"}


def test_a_folder_made_anew_does_not_show_what_was_in_the_old_one(snapshotter: Snapshotter) -> None:
    with snapshotter.prepare([]) as active:
        os.mkdir(f"{active.path}/folder")
        os.mknod(f"{active.path}/folder/old")
        one = active.commit()
    with snapshotter.prepare([one]) as active:
        os.unlink(f"{active.path}/folder/old")
        os.rmdir(f"{active.path}/folder")
        os.mkdir(f"{active.path}/folder")
        os.mknod(f"{active.path}/folder/new")
        two = active.commit()
    with snapshotter.view([one, two]) as view:
        assert os.listdir(f"{view.path}/folder") == ["new"]


def test_layers_of_archives_hide_what_they_say(snapshotter: Snapshotter) -> None:
    with snapshotter.prepare([]) as active:
        for folder in ("opaque", "other"):
            os.mkdir(f"{active.path}/{folder}")
            os.mknod(f"{active.path}/{folder}/lower")
        one = active.commit()
    files = (b"opaque/.wh..wh..opq", b"opaque/new", b".wh.other")
    with snapshotter.receive() as incoming:
        entries = [TarEntry(b"opaque", DIRECTORY, 0o755), *(TarEntry(name) for name in files)]
        apply_entries(entries, incoming.directory)
        two = incoming.commit()
    with snapshotter.view([one, two]) as view:
        assert os.listdir(view.path) == ["opaque"]
        assert os.listdir(f"{view.path}/opaque") == ["new"]
    said = sorted(entry.name for entry in all_entries(snapshotter.upper(two)))
    assert said == sorted([b"opaque", *files])


def test_a_layer_may_stand_in_a_stack_more_than_once(snapshotter: Snapshotter) -> None:
    one = layer(snapshotter, a="1")
    two = layer(snapshotter, [one], a="2", b="2")
    assert seen(snapshotter, [one, two, one]) == {"a": "1", "b": "2"}
    assert seen(snapshotter, [one, one]) == {"a": "1"}
    three = layer(snapshotter, [one, two, one, two], b=None)
    assert seen(snapshotter, [one, two, one, two, three]) == {"a": "2"}


def test_a_layer_made_on_nothing_hides_nothing_when_it_is_put_on_others(snapshotter: Snapshotter) -> None:
    with snapshotter.prepare([]) as active:
        os.mkdir(f"{active.path}/folder")
        os.mknod(f"{active.path}/folder/lower")
        one = active.commit()
    with snapshotter.prepare([]) as active:
        os.mkdir(f"{active.path}/folder")
        os.mknod(f"{active.path}/folder/upper")
        two = active.commit()
    with snapshotter.view([one, two]) as view:
        assert sorted(os.listdir(f"{view.path}/folder")) == ["lower", "upper"]


def test_more_layers_than_the_kernel_mounts_at_once(snapshotter: Snapshotter) -> None:
    if isinstance(snapshotter, Native):
        pytest.skip("each would copy all layers below it")
    layers = [layer(snapshotter, **{f"f{index}": str(index), "top": str(index)}) for index in range(510)]
    texts = seen(snapshotter, layers)
    assert len(texts) == 511
    assert texts["top"] == "509"


def test_a_view_cannot_be_written(snapshotter: Snapshotter) -> None:
    one = layer(snapshotter, a="1")
    with snapshotter.view([one]) as view, pytest.raises(OSError, match="Read-only file system"):
        os.mknod(f"{view.path}/b")


def test_what_is_not_committed_leaves_nothing(snapshotter: Snapshotter) -> None:
    one = layer(snapshotter, a="1")
    with snapshotter.prepare([one]) as active:
        os.mknod(f"{active.path}/b")
    assert snapshotter.layers() == [one]
    assert seen(snapshotter, [one]) == {"a": "1"}


def test_what_a_killed_process_was_making_is_swept_away(snapshotter: Snapshotter, tmp_path: Path) -> None:
    one = layer(snapshotter, a="1")
    script = (
        "import os, signal, sys\n"
        "from inlay.snapshot.native import Native\n"
        "incoming = Native(sys.argv[1]).receive()\n"
        "os.mknod(incoming.directory + '/half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(tmp_path / "snapshots")
    subprocess.run([sys.executable, "-c", script, root], check=False)
    assert len(os.listdir(f"{root}/new")) == 1
    Native(root).open()
    assert os.listdir(f"{root}/new") == []
    assert seen(snapshotter, [one]) == {"a": "1"}


def test_a_removed_layer_is_gone(snapshotter: Snapshotter) -> None:
    one = layer(snapshotter, a="1")
    snapshotter.remove(one)
    snapshotter.remove(one)
    assert not snapshotter.exists(one)
    assert snapshotter.layers() == []


def test_a_layer_that_there_is_no_room_for_leaves_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=5", "none", tmp_path], check=True)
    try:
        native = Native(str(tmp_path))
        with pytest.raises(OSError, match="No space"):  # its folder is the fifth
            native.receive()
        assert os.listdir(tmp_path / "new") == []
        assert [fd for fd in os.scandir("/proc/self/fd") if str(tmp_path) in _link(fd.path)] == []
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_what_cannot_be_deleted_now_is_deleted_by_the_next_sweep(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    native = Native(str(tmp_path))
    incoming = native.receive()
    subprocess.run(["mount", "-t", "tmpfs", "none", incoming.directory], check=True)
    try:
        with pytest.raises(OSError, match="busy"):
            incoming.discard()
    finally:
        subprocess.run(["umount", "-l", incoming.directory], check=True)
    assert native.sweep() == 1
    assert os.listdir(tmp_path / "new") == []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""  # the one that the folder was listed by
