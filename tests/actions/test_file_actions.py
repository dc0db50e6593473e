"""What file actions do to a tree, where no recorded build shows it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from inlay.actions.files.action import plan_action
from inlay.actions.files.op import chain, copy_tree, perform, read_by
from inlay.actions.files.writing import WritableTree
from inlay.errors import SolveError, SourceError
from inlay.llb.keys import ContentSelector
from inlay.llb.ops import (
    NO_OUTPUT,
    Action,
    Copy,
    FileAction,
    FileOp,
    MakeDirectory,
    MakeFile,
    Owner,
    Remove,
    Symlink,
    User,
)
from inlay.trees.contenthash import content_digest
from inlay.trees.tree import Tree
from recorded_trees import needs_root

if TYPE_CHECKING:
    from pathlib import Path

NOW = -1
EPOCH = 1_600_000_000_000_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def do(
    action: Action, target: Path, source: Path | None = None, owner: tuple[int, int] | None = None
) -> None:
    with WritableTree.at(str(target)) as tree:
        taken = Tree.at(str(source)) if source else Tree.empty()
        with taken:
            tree.carry_out(plan_action(action, tree, source=taken, owner=owner))


def copy(src: str, dest: str, **how: object) -> Copy:
    """As the Dockerfile's COPY makes it, but for `how`."""
    usual = Copy(
        src,
        dest,
        mode=-1,
        follow_symlink=True,
        copy_dir_contents=True,
        create_dest_path=True,
        allow_wildcard=True,
        allow_empty_wildcard=True,
        timestamp=NOW,
    )
    return usual._replace(**how)  # type: ignore[arg-type]


def paths(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- where a source goes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing", "dest", "expected"),
    [
        ("", "/x", "x"),
        ("", "/x/", "x/f"),
        ("", "/x/.", "x/f"),
        ("", "/a/b/x", "a/b/x"),
        ("x/", "/x", "x/f"),
        ("x/", "/x/", "x/f"),
        ("x", "/x", "x"),
        ("y/", "/y/../x", "x"),
    ],
)
def test_a_file_goes_to_its_name_or_into_a_folder(
    source: Path, target: Path, existing: str, dest: str, expected: str
) -> None:
    (source / "f").write_text("new")
    if existing.endswith("/"):
        (target / existing).mkdir()
    elif existing:
        (target / existing).write_text("old")
    do(copy("/f", dest), target, source)
    assert (target / expected).read_text() == "new"


@pytest.mark.parametrize(
    ("existing", "contents_only", "expected"),
    [(False, True, "x/f"), (True, True, "x/f"), (False, False, "x/f"), (True, False, "x/d/f")],
)
def test_a_folder_s_content_goes_into_the_destination_or_the_folder_itself(
    source: Path, target: Path, existing: bool, contents_only: bool, expected: str
) -> None:
    (source / "d").mkdir()
    (source / "d/f").write_text("1")
    if existing:
        (target / "x").mkdir()
    do(copy("/d", "/x", copy_dir_contents=contents_only), target, source)
    assert (target / expected).read_text() == "1"


def test_a_new_destination_is_0755_and_has_the_source_s_time(source: Path, target: Path) -> None:
    (source / "d/e").mkdir(parents=True)
    (source / "d/e").chmod(0o700)
    (source / "d").chmod(0o700)
    os.utime(source / "d", (5, 5))
    do(copy("/d", "/x"), target, source)
    assert (permissions(target / "x"), permissions(target / "x/e")) == (0o755, 0o700)
    assert (target / "x").stat().st_mtime == 5


def test_folders_that_exist_get_the_source_s_mode_below_the_top(source: Path, target: Path) -> None:
    (source / "d/e").mkdir(parents=True)
    (source / "d/e").chmod(0o711)
    (target / "x/e").mkdir(parents=True)
    (target / "x").chmod(0o750)
    do(copy("/d", "/x"), target, source)
    assert (permissions(target / "x"), permissions(target / "x/e")) == (0o750, 0o711)


def test_links_in_the_destination_lead_inside_it(source: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (source / "f").write_text("1")
    (target / "l").symlink_to("/real/deep")
    (target / "up").symlink_to("../../outside")
    do(copy("/f", "/l/"), target, source)
    do(copy("/f", "/up/"), target, source)
    assert (target / "real/deep/f").read_text() == "1"
    assert (target / "outside/f").read_text() == "1"
    assert paths(tmp_path / "outside") == []


def test_a_link_at_the_destination_is_written_through_and_one_inside_it_is_replaced(
    source: Path, target: Path
) -> None:
    (source / "f").write_text("new")
    (target / "kept").write_text("old")
    (target / "l").symlink_to("other")
    (target / "d").mkdir()
    (target / "d/f").symlink_to("../kept")
    do(copy("/f", "/l"), target, source)
    do(copy("/f", "/d"), target, source)
    assert (target / "other").read_text() == "new"
    assert (target / "kept").read_text() == "old"
    assert (target / "d/f").read_text() == "new"


def test_the_last_of_several_sources_decides_what_a_folder_is_like(source: Path, target: Path) -> None:
    for name, mode in {"a": 0o700, "b": 0o711}.items():
        (source / name / "e").mkdir(parents=True)
        (source / name / "e").chmod(mode)
        (source / name / "e" / name).touch()
        os.utime(source / name / "e", (mode, mode))
    do(copy("/[ab]", "/x/"), target, source)
    assert paths(target) == ["x", "x/e", "x/e/a", "x/e/b"]
    assert (permissions(target / "x/e"), (target / "x/e").stat().st_mtime) == (0o711, 0o711)


# -- what is in the way -------------------------------------------------------------------------------


def test_a_file_does_not_replace_a_folder_unless_asked_to(source: Path, target: Path) -> None:
    (source / "d").mkdir()
    (source / "d/f").write_text("1")
    (target / "x/f/deep").mkdir(parents=True)
    with pytest.raises(SolveError, match="cannot replace to directory /x/f with file"):
        do(copy("/d", "/x"), target, source)
    do(copy("/d", "/x", replace_existing=True), target, source)
    assert (target / "x/f").read_text() == "1"


def test_a_folder_does_not_replace_a_file_unless_asked_to(source: Path, target: Path) -> None:
    (source / "d/f").mkdir(parents=True)
    (source / "d/f/g").write_text("1")
    (target / "x").mkdir()
    (target / "x/f").write_text("in the way")
    with pytest.raises(SolveError, match="cannot copy to non-directory: /x/f"):
        do(copy("/d", "/x"), target, source)
    do(copy("/d", "/x", replace_existing=True), target, source)
    assert (target / "x/f/g").read_text() == "1"


def test_a_folder_above_the_destination_must_not_be_a_file(source: Path, target: Path) -> None:
    (source / "f").touch()
    (target / "x").touch()
    with pytest.raises(SolveError, match="mkdir /x: not a directory"):
        do(copy("/f", "/x/y/z"), target, source)


def test_a_missing_source_is_an_error(source: Path, target: Path) -> None:
    with pytest.raises(SolveError, match="lstat /none: no such file or directory"):
        do(copy("/none", "/x"), target, source)
    with pytest.raises(SolveError, match="failed to stat /y/x: no such file or directory"):
        do(copy("/none", "/y/x", create_dest_path=False), target, source)


# -- which sources --------------------------------------------------------------------------------------


def test_wildcards_name_sources_and_may_name_none(source: Path, target: Path) -> None:
    for name in ("a1", "a2", "b"):
        (source / name).write_text(name)
    do(copy("/a*", "/x/"), target, source)
    do(copy("/none*", "/y/"), target, source)
    assert paths(target) == ["x", "x/a1", "x/a2"]
    with pytest.raises(SolveError, match=r"/none\* not found"):
        do(copy("/none*", "/y/", allow_empty_wildcard=False), target, source)


def test_a_wildcard_may_be_in_a_folder_s_name(source: Path, target: Path) -> None:
    for name in ("d1/f", "d1/g", "d2/f", "d2/sub/f"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    do(copy("/d?/f", "/x/"), target, source)
    assert paths(target) == ["x", "x/f"]
    assert (target / "x/f").read_text() == "d2/f"


def test_folders_above_what_is_included_come_along_and_no_others(source: Path, target: Path) -> None:
    for name in ("a/b/c/f", "a/b/g", "h/i"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "a/b").chmod(0o700)
    do(copy("/", "/x/", include_patterns=("a/*/c",)), target, source)
    assert paths(target) == ["x", "x/a", "x/a/b", "x/a/b/c", "x/a/b/c/f"]
    assert permissions(target / "x/a/b") == 0o700


def test_excluded_paths_stay_behind_but_for_exceptions(source: Path, target: Path) -> None:
    for name in ("d/keep", "d/drop", "e/drop"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(name)
    do(copy("/", "/x/", exclude_patterns=("d", "!d/keep", "e")), target, source)
    assert paths(target) == ["x", "x/d", "x/d/keep"]


# -- what a copy is like ----------------------------------------------------------------------------------


def test_all_kinds_of_files_are_copied(source: Path, target: Path) -> None:
    (source / "d").mkdir()
    (source / "d/f").write_bytes(b"x" * 600_000)
    (source / "d/f").chmod(0o4711)
    (source / "d/l").symlink_to("nowhere")
    os.utime(source / "d/l", (7, 7), follow_symlinks=False)
    os.mkfifo(source / "d/p", 0o640)
    os.utime(source / "d/f", (3, 4))
    do(copy("/d", "/x"), target, source)
    assert (target / "x/f").read_bytes() == b"x" * 600_000
    assert permissions(target / "x/f") == 0o4711
    assert (target / "x/f").stat().st_mtime == 4
    assert (target / "x/l").readlink().name == "nowhere"
    assert (target / "x/l").lstat().st_mtime == 7
    assert stat.S_ISFIFO((target / "x/p").stat().st_mode)


def test_files_with_several_names_stay_one_file(source: Path, target: Path) -> None:
    (source / "d").mkdir()
    (source / "d/a").write_text("1")
    (source / "d/b").hardlink_to(source / "d/a")
    (source / "d/c").hardlink_to(source / "d/a")
    do(copy("/d", "/x", exclude_patterns=("a",)), target, source)
    assert (target / "x/b").stat().st_ino == (target / "x/c").stat().st_ino
    do(copy("/d/*", "/y/"), target, source)
    assert (target / "y/b").stat().st_ino != (target / "y/c").stat().st_ino


def test_holes_stay_holes(source: Path, target: Path) -> None:
    with (source / "f").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"middle")
        file.truncate(128 << 20)
    if (source / "f").stat().st_blocks > 1000:
        pytest.skip("no sparse files here")
    do(copy("/f", "/f"), target, source)
    copied = target / "f"
    assert copied.stat().st_size == 128 << 20
    assert copied.stat().st_blocks < 1000
    with copied.open("rb") as file:
        file.seek(64 << 20)
        assert file.read(7) == b"middle\0"


def test_names_need_not_be_text(source: Path, target: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (source / name).write_text("1")
    do(copy("/", "/x/"), target, source)
    assert os.listdir(os.fsencode(target / "x")) == [b"caf\xe9"]


def test_extended_attributes_come_along(source: Path, target: Path) -> None:
    (source / "d").mkdir()
    (source / "d/f").write_text("1")
    try:
        for name in ("d", "d/f"):
            os.setxattr(source / name, "user.x", b"1")
    except OSError:
        pytest.skip("no extended attributes here")
    do(copy("/d", "/x", copy_dir_contents=False), target, source)
    assert os.getxattr(target / "x", "user.x") == b"1"
    assert os.getxattr(target / "x/f", "user.x") == b"1"


@needs_root
def test_owners_are_the_source_s_unless_one_is_given(source: Path, target: Path) -> None:
    (source / "d").mkdir()
    (source / "d/f").touch()
    os.chown(source / "d/f", 5, 6)
    do(copy("/d", "/x"), target, source)
    do(copy("/d", "/y/z"), target, source, owner=(7, 8))
    owners = {
        path: (facts.st_uid, facts.st_gid) for path in paths(target) if (facts := (target / path).stat())
    }
    assert owners == {"x": (0, 0), "x/f": (5, 6), "y": (7, 8), "y/z": (7, 8), "y/z/f": (7, 8)}


@needs_root
def test_a_block_device_becomes_a_character_device_and_a_socket_an_empty_file(
    source: Path, target: Path
) -> None:
    os.mknod(source / "b", stat.S_IFBLK | 0o640, os.makedev(7, 9))
    os.mknod(source / "s", stat.S_IFSOCK | 0o640)
    do(copy("/", "/x/"), target, source)
    device = (target / "x/b").stat()
    assert stat.S_ISCHR(device.st_mode)
    assert device.st_rdev == os.makedev(7, 9)
    assert stat.S_ISREG((target / "x/s").stat().st_mode)


def test_a_mode_is_for_all_that_is_copied_and_made(source: Path, target: Path) -> None:
    (source / "d/e").mkdir(parents=True)
    (source / "d/e/f").touch()
    do(copy("/d", "/p/x", mode=0o2750), target, source)
    modes = {path: oct(permissions(target / path)) for path in paths(target)}
    assert modes == {"p": "0o750", "p/x": "0o750", "p/x/e": "0o2750", "p/x/e/f": "0o2750"}


def test_a_symbolic_mode_changes_what_is_copied(source: Path, target: Path) -> None:
    (source / "d/e").mkdir(parents=True)
    (source / "d/e/f").touch(0o644)
    (source / "d/e").chmod(0o700)
    do(copy("/d", "/x", mode_text="go+rX,u-w"), target, source)
    modes = {path: oct(permissions(target / path)) for path in paths(target)}
    assert modes == {"x": "0o755", "x/e": "0o555", "x/e/f": "0o444"}


def test_a_timestamp_is_for_all_that_is_copied_and_made(source: Path, target: Path) -> None:
    (source / "d/e").mkdir(parents=True)
    (source / "d/e/f").touch()
    (source / "d/l").symlink_to("f")
    do(copy("/d", "/p/x", timestamp=EPOCH), target, source)
    assert {(target / path).lstat().st_mtime_ns for path in paths(target)} == {EPOCH}


def test_a_file_that_shrinks_while_it_is_copied_is_an_error(source: Path, target: Path) -> None:
    (source / "f").write_text("12345")
    with WritableTree.at(str(target)) as tree, Tree.at(str(source)) as taken:
        plan = iter(plan_action(copy("/f", "/f"), tree, source=taken))
        entry = next(plan)
        (source / "f").write_text("1")
        with pytest.raises(SourceError, match="changed while it was copied to /f"):
            tree.carry_out([entry])


def test_a_whole_tree_is_copied(source: Path, target: Path) -> None:
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/c").write_text("1")
    with Tree.at(str(source)) as tree:
        copy_tree(tree, str(target))
    assert paths(target) == ["a", "a/b", "a/b/c"]


@needs_root
def test_each_action_of_an_op_looks_names_up_in_what_the_one_before_it_left(
    source: Path, target: Path
) -> None:
    for name in ("passwd", "f"):
        (source / name).write_text("joe:x:7:8::/:/bin/sh\n")
    joe = Owner(User(name="joe", input=2))
    op = FileOp(
        (
            FileAction(0, 1, NO_OUTPUT, copy("/passwd", "/etc/passwd")),
            FileAction(2, 1, 0, copy("/f", "/f", owner=joe)),
        )
    )
    first, actions = chain(op, 2)
    assert (first, [read_by(action, 2) for action in actions]) == (0, [{1}, {1}])
    with Tree.at(str(source)) as tree, WritableTree.at(str(target)) as changed:
        perform(actions, {1: tree}, changed)
    made = (target / "f").stat()
    assert (made.st_uid, made.st_gid) == (7, 8)


def test_a_deep_tree_is_read_and_copied(source: Path, target: Path) -> None:
    deep = source / "/".join(["d"] * 240)
    deep.mkdir(parents=True)
    (deep / "f").write_text("1")
    with Tree.at(str(source)) as tree:
        assert content_digest(tree, [ContentSelector("/"), ContentSelector("/", exclude_patterns=("x",))])
    do(copy("/", "/x/"), target, source)
    assert (target / "x" / "/".join(["d"] * 240) / "f").read_text() == "1"


def test_no_descriptor_is_left_open(source: Path, target: Path) -> None:
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/c").write_text("1")
    (target / "x/b").mkdir(parents=True)
    (target / "x/b/c").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SolveError):
        do(copy("/a", "/x"), target, source)
    assert len(os.listdir("/proc/self/fd")) == before


# -- the other actions ------------------------------------------------------------------------------------


def test_a_folder_is_made_with_those_above_it(target: Path) -> None:
    (target / "l").symlink_to("/a")
    action = MakeDirectory("/l/b/c", mode=0o750, make_parents=True, timestamp=EPOCH)
    do(action, target)
    do(action, target)
    assert [permissions(target / path) for path in ("a", "a/b", "a/b/c")] == [0o750] * 3
    assert {(target / path).stat().st_mtime_ns for path in ("a", "a/b", "a/b/c")} == {EPOCH}


def test_a_folder_without_those_above_it_is_an_error(target: Path) -> None:
    with pytest.raises(SolveError, match="mkdir /a/b: no such file or directory"):
        do(MakeDirectory("/a/b", mode=0o755), target)
    (target / "a").touch()
    do(MakeDirectory("/a", mode=0o755), target)
    with pytest.raises(SolveError, match="mkdir /a: not a directory"):
        do(MakeDirectory("/a", mode=0o755, make_parents=True), target)


def test_a_file_is_written_and_keeps_its_mode_when_it_is_written_again(target: Path) -> None:
    do(MakeFile("/f", mode=0o100640, data=b"1", timestamp=EPOCH), target)
    assert ((target / "f").read_text(), permissions(target / "f")) == ("1", 0o640)
    do(MakeFile("f", mode=0o600, data=b"2", timestamp=NOW), target)
    assert ((target / "f").read_text(), permissions(target / "f")) == ("2", 0o640)
    with pytest.raises(SolveError, match="open /: is a directory"):
        do(MakeFile("/", mode=0o600, data=b"2", timestamp=NOW), target)
    with pytest.raises(SolveError, match="open /x/f: no such file or directory"):
        do(MakeFile("/x/f", mode=0o600, data=b"2", timestamp=NOW), target)


def test_a_symlink_is_made_once(target: Path) -> None:
    action = Symlink("../anything", "/l/x", timestamp=EPOCH)
    (target / "real").mkdir()
    (target / "l").symlink_to("real")
    do(action, target)
    assert os.readlink(target / "real/x") == "../anything"
    assert (target / "real/x").lstat().st_mtime_ns == EPOCH
    (target / "y").touch()
    with pytest.raises(SolveError, match="symlink a /y: file exists"):
        do(Symlink("a", "/y", timestamp=NOW), target)


def test_what_is_removed_is_gone_with_all_below(target: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").touch()
    (target / "a/b").mkdir(parents=True)
    (target / "a/b/c").touch()
    (target / "a/l").symlink_to(tmp_path / "outside")
    do(Remove("/a"), target)
    assert paths(target) == []
    assert paths(tmp_path / "outside") == ["f"]


def test_removing_what_is_missing_is_an_error_unless_allowed(target: Path) -> None:
    with pytest.raises(SolveError, match="stat /none: no such file or directory"):
        do(Remove("/none"), target)
    do(Remove("/none", allow_not_found=True), target)
    with pytest.raises(SolveError, match="invalid empty path"):
        do(Remove("/"), target)


def test_wildcards_name_what_is_removed(target: Path) -> None:
    for name in ("a1", "a2", "b"):
        (target / name).touch()
    do(Remove("/a*", allow_wildcard=True), target)
    assert paths(target) == ["b"]
