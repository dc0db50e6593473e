"""What of a folder is in a build context."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inlay.errors import SourceError
from inlay.golang.patterns import PatternMatcher
from inlay.llb.keys import WHOLE_TREE
from inlay.sources.local import LocalContext
from inlay.trees.contenthash import content_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from inlay.trees.tree import Folder, Tree


def make(root: Path, *paths: str) -> None:
    """Make files; `a/` is a folder, `a -> b` a link."""
    for path in paths:
        name, _, target = path.partition(" -> ")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if target:
            (root / name).symlink_to(target)
        elif name.endswith("/"):
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).write_text(name)


def walk(tree: Tree, folder: Folder) -> Iterator[str]:
    for name, stat, state in tree.entries(folder):
        yield f"{folder.path}/{name}"[1:]
        if stat.st_mode & 0o170000 == 0o040000:
            with tree.enter(folder, name, state) as inner:
                yield from walk(tree, inner)


def what_is_in(root: Path, **how: Sequence[str] | None) -> list[str]:
    with LocalContext(str(root), **how) as context, context.root() as folder:  # type: ignore[arg-type]
        return list(walk(context, folder))


def test_everything_is_in_by_default(tmp_path: Path) -> None:
    make(tmp_path, "a/b", "c", "l -> c", "e/")
    assert what_is_in(tmp_path) == ["a", "a/b", "c", "e", "l"]


def test_excluded_paths_are_out_with_all_below(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c", "d.log", "x/d.log", "keep")
    assert what_is_in(tmp_path, exclude_patterns=["a", "**/*.log"]) == ["keep", "x"]


def test_exceptions_bring_their_folders_back(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c", "a/b/d", "a/e", "f/g")
    assert what_is_in(tmp_path, exclude_patterns=["*", "!a/b/c"]) == ["a", "a/b", "a/b/c"]


def test_a_folder_without_anything_that_is_in_is_out(tmp_path: Path) -> None:
    make(tmp_path, "a/b", "c/d")
    assert what_is_in(tmp_path, exclude_patterns=["**", "!c/none"]) == []
    assert what_is_in(tmp_path, include_patterns=["*/d"]) == ["c", "c/d"]


def test_named_paths_bring_links_and_their_targets(tmp_path: Path) -> None:
    make(tmp_path, "dir/f", "dir/g", "other", "l -> dir", "abs -> /dir/f", "up -> ../../dir", "chain -> l")
    assert what_is_in(tmp_path, follow_paths=["l/f"]) == ["dir", "dir/f", "l"]
    assert what_is_in(tmp_path, follow_paths=["abs"]) == ["abs", "dir", "dir/f"]
    assert what_is_in(tmp_path, follow_paths=["up/g"]) == ["dir", "dir/g", "up"]
    assert what_is_in(tmp_path, follow_paths=["chain/f"]) == ["chain", "dir", "dir/f", "l"]


def test_wildcards_in_named_paths_bring_the_targets_of_links_that_match(tmp_path: Path) -> None:
    make(tmp_path, "x1 -> y", "x2", "y/f", "z")
    assert what_is_in(tmp_path, follow_paths=["x*"]) == ["x1", "x2", "y", "y/f"]
    assert what_is_in(tmp_path, follow_paths=["x*/f"]) == ["x1", "x2", "y", "y/f"]


def test_the_root_among_named_paths_is_everything(tmp_path: Path) -> None:
    make(tmp_path, "a", "b")
    for path in (".", "/", ""):
        assert what_is_in(tmp_path, follow_paths=["a", path]) == ["a", "b"]


def test_links_in_a_circle_do_no_harm(tmp_path: Path) -> None:
    make(tmp_path, "a -> b", "b -> a")
    assert what_is_in(tmp_path, follow_paths=["a/x"]) == ["a", "b"]


def test_links_that_lead_outside_are_never_followed(tmp_path: Path) -> None:
    make(tmp_path, "secret", "context/l -> ../secret", "context/m -> /etc")
    assert what_is_in(tmp_path / "context", follow_paths=["l", "m/passwd"]) == ["l", "m"]
    with LocalContext(str(tmp_path / "context")) as context:
        for path in ("/l", "/m/passwd"):
            with context.resolve(path, follow_last=True) as place:
                assert place.stat is None


def test_what_is_out_cannot_be_looked_up(tmp_path: Path) -> None:
    make(tmp_path, "a/b", "c")
    with LocalContext(str(tmp_path), exclude_patterns=["a/b"]) as context:
        for path, there in {"/a": True, "/a/b": False, "/c": True}.items():
            with context.resolve(path, follow_last=True) as place:
                assert (place.stat is not None) == there


def test_objects_of_all_kinds_are_in_with_root_as_their_owner(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
    (tmp_path / "empty").touch(0o600)
    (tmp_path / "socket").chmod(0o600)
    with LocalContext(str(tmp_path)) as context:
        assert content_digest(context, WHOLE_TREE)
        with context.root() as root:
            assert {context.owner(stat) for _, stat, _ in context.entries(root)} == {(0, 0)}


def test_a_missing_context_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot open the build context .*/none: no such file"):
        LocalContext(str(tmp_path / "none"))


def test_a_file_that_changes_during_the_build_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "f")
    with LocalContext(str(tmp_path)) as context:
        content_digest(context, WHOLE_TREE)
        context.digests.clear()
        (tmp_path / "new").write_text("x")
        (tmp_path / "new").rename(tmp_path / "f")
        with pytest.raises(SourceError, match="/f changed during the build"):
            content_digest(context, WHOLE_TREE)


def test_a_folder_that_is_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    """Whatever the moment, a walk sees the folder or fails, and never what the link names."""
    make(tmp_path, "secret/f", "context/a/f")
    (tmp_path / "secret/f").write_text("secret")
    folder, stop = tmp_path / "context/a", threading.Event()

    def swap() -> None:
        while not stop.is_set():
            folder.rename(tmp_path / "aside")
            folder.symlink_to("../secret")
            folder.unlink()
            (tmp_path / "aside").rename(folder)

    seen: set[bytes] = set()

    def look() -> None:
        with LocalContext(str(tmp_path / "context")) as context:
            try:
                with context.resolve("/a/f", follow_last=True) as place:
                    if place.stat is not None and place.parent is not None:
                        with open(context.open(place.parent, place.name), "rb") as file:
                            seen.add(file.read())
            except (OSError, SourceError):
                return

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            look()
    finally:
        stop.set()
        thread.join()
    look()
    assert seen == {b"context/a/f"}


NAMES = st.sampled_from(["a", "b", "c", "a.b"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
STARTS = st.sampled_from(["", "", "!", "**/", "!**/", "*/"])
ENDS = st.sampled_from(["", "", "/*", "/**", "*"])
PATTERNS = st.lists(st.tuples(STARTS, PATHS, ENDS).map("".join), max_size=4)


def matches(matcher: PatternMatcher, path: str) -> bool:
    """As a walk finds it that leaves nothing out: each folder hands its results down."""
    hit, results = False, ()
    for end in [at for at, char in enumerate(path) if char == "/"] + [len(path)]:
        hit, results = matcher.match_with_parents(path[:end], results)  # type: ignore[assignment]
    return hit


def by_definition(paths: list[str], includes: list[str], excludes: list[str]) -> list[str]:
    """Each path on its own: in if it matches, or something below it does."""
    include, exclude = PatternMatcher(includes), PatternMatcher(excludes)
    chosen = [
        path for path in paths if (not includes or matches(include, path)) and not matches(exclude, path)
    ]
    return [path for path in paths if any(one == path or one.startswith(path + "/") for one in chosen)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.sets(PATHS, max_size=8), includes=PATTERNS, excludes=PATTERNS)
def test_pruned_walks_find_what_the_patterns_say(
    tmp_path_factory: pytest.TempPathFactory, files: set[str], includes: list[str], excludes: list[str]
) -> None:
    root = tmp_path_factory.mktemp("context")
    for path in sorted(files):
        if not any(path.startswith(other + "/") for other in files):
            make(root, path)
    paths = what_is_in(root)
    assert what_is_in(root, include_patterns=includes, exclude_patterns=excludes) == by_definition(
        paths, includes, excludes
    )


def test_what_cannot_be_read_is_named_with_advice(tmp_path: Path) -> None:
    make(tmp_path, "f")
    with LocalContext(str(tmp_path)) as context:
        error = context.unreadable("/f", PermissionError(13, "Permission denied"))
    assert str(error) == (
        "cannot read /f of the build context: permission denied; make it readable, or exclude it by .dockerignore"
    )
