"""What counts for a content digest, and what does not; rules that no recorded build shows."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from inlay.digest import Digest
from inlay.errors import SourceError
from inlay.llb.keys import ContentSelector
from inlay.sources.local import LocalContext
from inlay.trees import treedigest
from inlay.trees.contenthash import content_digest
from inlay.trees.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path


def digest(root: Path, path: str = "/", **how: object) -> str:
    """The digest of what a selector chooses from a stage's tree, not yet joined with others'."""
    with Tree.at(str(root)) as tree:
        return _single(tree, ContentSelector(path, **{"follow_links": True, **how}))  # type: ignore[arg-type]


def _single(tree: Tree | None, selector: ContentSelector) -> str:
    from inlay.trees.contenthash import selected_digest

    return selected_digest(tree, selector)


def H(text: str | bytes) -> str:  # noqa: N802
    return "sha256:" + sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def header(path: Path, *, flag: str, size: int = 0, link: str = "") -> str:
    facts = path.lstat()
    mode = 511 if flag == "2" else facts.st_mode & 0o7777
    return (
        f"namemode{mode}uid{facts.st_uid}gid{facts.st_gid}size{size}typeflag{flag}linkname{link}"
        "unamegnamedevmajor0devminor0"
    )


def test_a_folder_is_its_header_and_its_children_in_order(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "b").mkdir(parents=True)
    (root / "a.txt").write_text("data")
    (root / "b/l").symlink_to("../a.txt")
    inner = H(
        "\0" + H(header(root / "b", flag="5")) + "\0l" + H(header(root / "b/l", flag="2", link="../a.txt"))
    )
    file = H(header(root / "a.txt", flag="0", size=4) + "data")
    assert digest(root) == H("\0" + H(header(root, flag="5")) + "\0a.txt" + file + "\0b" + inner)


def test_even_one_digest_is_joined(tmp_path: Path) -> None:
    with Tree.at(str(tmp_path)) as tree:
        assert content_digest(tree, [ContentSelector("/")]) == H(digest(tmp_path))


def test_scratch_has_only_a_root() -> None:
    assert content_digest(None, [ContentSelector("/")]) == Digest.of(H(""))
    with pytest.raises(SourceError, match="/x: no such file"):
        content_digest(None, [ContentSelector("/x")])


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    for path in ("/x", "/f/x", "/x/y"):
        with pytest.raises(SourceError, match=f'"{path}": not found'):
            digest(tmp_path, path)


def test_a_required_path_must_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    digest(tmp_path, include_patterns=("f",), required_paths=("/f",))
    with pytest.raises(SourceError, match='"/x": not found'):
        digest(tmp_path, include_patterns=("f",), required_paths=("/x",))


def test_names_and_times_of_a_file_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    os.utime(tmp_path / "b", (1, 1))
    assert digest(tmp_path, "/a") == digest(tmp_path, "/b")


def test_user_attributes_count_and_security_ones_do_not(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    plain = digest(tmp_path, "/f")
    try:
        os.setxattr(tmp_path / "f", "user.b", b"2")
        os.setxattr(tmp_path / "f", "user.a", b"1")
    except OSError:
        pytest.skip("no extended attributes here")
    assert digest(tmp_path, "/f") == H(header(tmp_path / "f", flag="0", size=1) + "user.a1user.b2" + "x")
    assert digest(tmp_path, "/f") != plain
    assert treedigest.xattr_counts("security.capability")
    assert not treedigest.xattr_counts("security.selinux")
    assert not treedigest.xattr_counts("system.posix_acl_access")


def test_content_below_a_name_with_byte_ff_is_hashed_again(tmp_path: Path) -> None:
    """BuildKit steps over a subfolder's keys only up to that byte."""
    folder = os.fsencode(tmp_path) + b"/d"
    os.mkdir(folder)
    with open(folder + b"/\xff", "wb"):
        pass
    head = header(tmp_path / "d", flag="5")
    file = H(header(tmp_path / os.fsdecode(b"d/\xff"), flag="0"))
    inner = H(b"\0" + H(head).encode() + b"\0\xff" + file.encode())
    outer = (
        b"\0"
        + H(header(tmp_path, flag="5")).encode()
        + b"\0d"
        + inner.encode()
        + b"\0d\0\xff"
        + file.encode()
    )
    assert digest(tmp_path) == H(outer)


def test_big_files_come_to_the_same_on_other_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"f{number}").write_bytes(bytes([number]) * (700_000 + number))
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"z" * 600_000)
    alone = digest(tmp_path)
    monkeypatch.setattr(treedigest, "_BIG", 1)
    assert digest(tmp_path) == alone
    monkeypatch.setattr(treedigest, "_WAITING", 1)
    assert digest(tmp_path) == alone


def test_a_wildcard_reaches_no_further_than_its_slashes(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/f.txt").write_text("1")
    (tmp_path / "a/g.txt").write_text("2")
    file = H(header(tmp_path / "a/g.txt", flag="0", size=1) + "2")
    assert digest(tmp_path, "/*/*.txt", wildcard=True) == H("\0a\0g.txt" + file)
    assert digest(tmp_path, "/*.txt", wildcard=True) == H("")


def test_brackets_may_match_a_slash(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text("1")
    file = H(header(tmp_path / "a/b", flag="0", size=1) + "1")
    assert digest(tmp_path, "/a[^x]b", wildcard=True) == H("\0a\0b" + file)


def test_a_wildcard_below_a_link_keeps_the_link_s_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/f1").write_text("1")
    (tmp_path / "real/f2").write_text("2")
    (tmp_path / "l").symlink_to("real")
    one = H(header(tmp_path / "real/f1", flag="0", size=1) + "1")
    two = H(header(tmp_path / "real/f2", flag="0", size=1) + "2")
    assert digest(tmp_path, "/l/f*", wildcard=True) == H("\0f1" + one + "\0f2" + two)


def test_an_excluded_folder_is_entered_for_exceptions(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/keep").write_text("1")
    (tmp_path / "d/drop").write_text("2")
    folders = [H(header(tmp_path / name, flag="5")) for name in ("d", "d/e")]
    file = H(header(tmp_path / "d/e/keep", flag="0", size=1) + "1")
    patterns = ("d", "!d/e/keep")
    assert digest(tmp_path, exclude_patterns=patterns) == H(
        f"\0d{folders[0]}\0d\0e{folders[1]}\0d\0e\0keep{file}"
    )


def test_a_context_has_no_root_and_no_owners(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    file = H(
        header(tmp_path / "f", flag="0", size=1).replace(f"uid{os.getuid()}gid{os.getgid()}", "uid0gid0")
        + "x"
    )
    with LocalContext(str(tmp_path)) as context:
        assert _single(context, ContentSelector("/")) == H("\0" + H("") + "\0f" + file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "f").write_text("x")
    (tmp_path / "f").chmod(0)
    with pytest.raises(SourceError, match="cannot read /f: permission denied"):
        digest(tmp_path, "/f")


def test_a_big_file_on_its_own_is_read_to_its_end(tmp_path: Path) -> None:
    for byte in ("1", "2"):
        text = byte * (treedigest._BIG + 1)
        (tmp_path / "f").write_text(text)
        file = H(header(tmp_path / "f", flag="0", size=len(text)) + text)
        assert digest(tmp_path, "/f") == file
        assert digest(tmp_path, "/f*", wildcard=True) == H("\0f" + file)
        assert digest(tmp_path, "/", include_patterns=("f",)) == H("\0f" + file)
