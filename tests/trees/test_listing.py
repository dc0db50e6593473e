"""archive.listing: which files a content digest was made of, and what changed between two."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from inlay.llb.keys import ContentSelector
from inlay.sources.local import LocalContext
from inlay.trees.contenthash import content_digest
from inlay.trees.listing import FileChange, changes, decode, encode, list_content

if TYPE_CHECKING:
    from pathlib import Path

    from inlay.trees.listing import Listing
    from inlay.trees.tree import Tree


def listing(tree: Tree, *selectors: ContentSelector) -> Listing:
    content_digest(tree, selectors)
    found = list_content(tree, selectors)
    assert found is not None
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "src/deep").mkdir(parents=True)
    (folder / "src/a.c").write_text("a")
    (folder / "src/b.c").write_text("b")
    (folder / "src/deep/c.c").write_text("c")
    (folder / "src/link").symlink_to("a.c")
    (folder / "readme").write_text("read me")
    return folder


def context(root: Path) -> LocalContext:
    return LocalContext(str(root))


SRC = ContentSelector("/src", follow_links=True)


def test_a_folder_is_listed_with_all_that_is_in_it(root: Path) -> None:
    with context(root) as tree:
        found = listing(tree, SRC)
    assert sorted(found) == ["/src", "/src/a.c", "/src/b.c", "/src/deep", "/src/deep/c.c", "/src/link"]
    assert found["/src/a.c"].size == 1
    assert (found["/src/a.c"].uid, found["/src/a.c"].gid) == (0, 0)


def test_a_file_the_root_and_patterns(root: Path) -> None:
    with context(root) as tree:
        assert list(listing(tree, ContentSelector("/readme"))) == ["/readme"]
    with context(root) as tree:
        assert set(listing(tree, ContentSelector("/"))) >= {"/readme", "/src", "/src/deep/c.c"}
    with context(root) as tree:
        found = listing(tree, ContentSelector("/src/*.c", follow_links=True, wildcard=True))
        assert sorted(found) == ["/src/a.c", "/src/b.c"]
    with context(root) as tree:
        found = listing(tree, ContentSelector("/", include_patterns=("src/deep",)))
        assert sorted(found) == ["/src", "/src/deep", "/src/deep/c.c"]
    with context(root) as tree:
        found = listing(tree, ContentSelector("/src/link", follow_links=True))
        assert list(found) == ["/src/a.c"]


def test_what_changed_between_two(root: Path) -> None:
    with context(root) as tree:
        before = listing(tree, SRC)
    (root / "src/a.c").write_text("other")
    os.chmod(root / "src/b.c", 0o755)
    (root / "src/deep/c.c").unlink()
    (root / "src/new").touch()
    with context(root) as tree:
        after = listing(tree, SRC)
    found = changes(before, after)
    assert [change.path for change in found] == ["/src/a.c", "/src/b.c", "/src/deep/c.c", "/src/new"]
    content, mode, gone, new = found
    assert content.before is not None
    assert content.after is not None
    assert (content.before.size, content.after.size) == (1, 5)
    assert mode.before is not None
    assert mode.after is not None
    assert mode.before.mode ^ mode.after.mode == 0o111
    assert gone == FileChange("/src/deep/c.c", before["/src/deep/c.c"], None)
    assert new == FileChange("/src/new", None, after["/src/new"])
    assert changes(after, after) == []


def test_the_time_of_a_file_is_no_change(root: Path) -> None:
    with context(root) as tree:
        before = listing(tree, SRC)
    os.utime(root / "src/a.c", (1, 1))
    with context(root) as tree:
        assert changes(before, listing(tree, SRC)) == []


def test_listings_survive_the_disk_whatever_the_names(root: Path) -> None:
    for name in (b"with space", b"new\nline", b"\xff\xfe", "ä".encode(), b"\xffdir"):
        (root / "src" / os.fsdecode(name)).mkdir()
        (root / "src" / os.fsdecode(name) / "f").touch()
    with context(root) as tree:
        found = listing(tree, SRC)
    assert len(found) == 16
    assert decode(encode(found)) == found


@pytest.mark.parametrize("data", [b"", b"rubbish", b"x\x9c\x03\x00\x00\x00\x00"])
def test_a_broken_listing_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(data)


def test_a_truncated_listing_is_a_value_error() -> None:
    import zlib

    with pytest.raises(ValueError, match="not enough values"):
        decode(zlib.compress(b"100644 0 0\0"))
