"""Files that did not change are not read again; files that did are."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from inlay.errors import SourceError
from inlay.llb.keys import WHOLE_TREE
from inlay.sources.local import LocalContext
from inlay.trees.contenthash import content_digest
from inlay.trees.digestmemory import DigestMemory
from inlay.trees.listing import list_content

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 1_000_000_000


class CountingContext(LocalContext):
    """Counts the files that are opened."""

    __slots__ = ("opened",)

    def open(self, folder: object, name: str) -> int:
        self.opened = getattr(self, "opened", 0) + 1
        return super().open(folder, name)  # type: ignore[arg-type]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three files, looked at long after they were written."""
    folder = tmp_path / "context"
    folder.mkdir()
    for number in range(3):
        (folder / f"f{number}").write_text(str(number))
    later(monkeypatch)
    return folder


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    from inlay.trees import treedigest

    monkeypatch.setattr(treedigest, "time_ns", lambda: time.time_ns() + 10 * SECOND)


def read(folder: Path, memory: DigestMemory | None) -> tuple[str, int]:
    """The digest of `folder`, and how many files had to be read for it."""
    with CountingContext(str(folder), memory=memory) as tree:
        return content_digest(tree, WHOLE_TREE), getattr(tree, "opened", 0)


def test_unchanged_files_are_not_read_again(context: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "memory")
    memory = DigestMemory(path)
    first, opened = read(context, memory)
    assert opened == 3
    memory.save()
    assert read(context, DigestMemory(path)) == (first, 0)


@pytest.mark.parametrize("change", ["content", "mode", "replaced", "attribute"])
def test_changed_files_are_read_again(context: Path, tmp_path: Path, change: str) -> None:
    memory = DigestMemory(str(tmp_path / "memory"))
    before, _ = read(context, memory)
    file = context / "f1"
    if change == "content":
        times = file.stat()
        file.write_text("X")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "mode":
        file.chmod(0o700)
    elif change == "attribute":
        os.setxattr(file, "user.x", b"1")
    else:
        file.unlink()
        file.write_text("Y")
    after = read(context, memory)
    assert after == (read(context, None)[0], 1)
    assert after[0] != before


def edited(folder: Path, rng: random.Random) -> None:
    """Change something in or below `folder`, in a way that may leave sizes and names as they were."""
    paths = sorted(folder.rglob("*"))
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    folders = [folder, *(path for path in paths if path.is_dir() and not path.is_symlink())]
    new = rng.choice(folders) / f"n{rng.randrange(12)}"
    what = rng.randrange(9)
    if what == 0 and files:
        rng.choice(files).write_text(str(rng.randrange(10)))
    elif what == 1 and files and not new.exists():
        rng.choice(files).rename(new)
    elif what == 2 and len(files) > 1:
        one, other = rng.sample(files, 2)
        one.rename(folder / "aside")
        other.rename(one)
        (folder / "aside").rename(other)
    elif what == 3:
        rng.choice([*files, *folders]).chmod(rng.choice([0o700, 0o755]))
    elif what == 4 and files:
        rng.choice(files).unlink()
    elif what == 5 and not os.path.lexists(new):
        new.mkdir()
    elif what == 6 and not os.path.lexists(new):
        new.symlink_to(rng.choice(["f0", "f1"]))
    elif what == 7 and len(folders) > 1:
        moved = rng.choice(folders[1:])
        if not new.is_relative_to(moved) and not os.path.lexists(new):
            moved.rename(new)
    elif not os.path.lexists(new):
        new.write_text(str(rng.randrange(10)))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_changes_the_digest_is_that_without_a_memory(
    context: Path, tmp_path: Path, seed: int
) -> None:
    path = str(tmp_path / "memory")
    rng = random.Random(seed)
    for name in ("d", "d/e"):
        (context / name).mkdir()
        (context / name / "f").write_text(name)
    for _ in range(25):
        for _ in range(rng.randrange(3)):
            edited(context, rng)
        time.sleep(0.012)  # longer than a tick of the clock that file times are read off
        digest, _ = read(context, None)
        for opened in (None, 0):  # what was found out once is remembered
            memory = DigestMemory(path)
            again, now = read(context, memory)
            assert again == digest
            assert opened is None or now == opened
            memory.save()


def test_a_folder_that_is_remembered_is_listed_file_by_file_all_the_same(
    context: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "memory")
    (context / "sub").mkdir()
    (context / "sub" / "link").symlink_to("f0")
    os.mkfifo(context / "pipe")
    listings = []
    for _ in range(3):
        memory = DigestMemory(path)
        with LocalContext(str(context), memory=memory) as tree:
            content_digest(tree, WHOLE_TREE)
            listings.append(list_content(tree, WHOLE_TREE))
        memory.save()
    assert listings[0] == listings[1] == listings[2]
    assert sorted(listings[0] or {}) == ["", "/f0", "/f1", "/f2", "/pipe", "/sub", "/sub/link"]


def test_a_remembered_file_that_changes_before_it_is_copied_is_noticed(context: Path, tmp_path: Path) -> None:
    memory = DigestMemory(str(tmp_path / "memory"))
    read(context, memory)
    with LocalContext(str(context), memory=memory) as tree:
        content_digest(tree, WHOLE_TREE)
        (context / "f1").write_text("longer")
        with tree.root() as folder, pytest.raises(SourceError, match="f1 changed during the build"):
            tree.check_unchanged(folder, "f1", os.stat(context / "f1"))


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "f").write_text("1")
    memory = DigestMemory(None)
    assert read(folder, memory)[1] == 1
    assert read(folder, memory)[1] == 1
    later(monkeypatch)
    read(folder, memory)
    assert read(folder, memory)[1] == 0


def test_whole_second_times_are_trusted_later() -> None:
    stat = os.stat_result(
        (0o100644, 1, 1, 1, 0, 0, 1, 5, 5, 5), {"st_ctime_ns": 5 * SECOND, "st_mtime_ns": 0}
    )
    memory = DigestMemory(None)
    memory.put(stat, "sha256:" + "0" * 64, 7 * SECOND)
    assert memory.get(stat) is None
    memory.put(stat, "sha256:" + "0" * 64, 9 * SECOND)
    assert memory.get(stat) == "sha256:" + "0" * 64


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_memory_is_ignored(context: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "memory"
    memory = DigestMemory(str(path))
    digest, _ = read(context, memory)
    memory.save()
    data = path.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    path.write_bytes({"cut": data[:-72], "flipped": flipped, "empty": b"", "foreign": b"x" * 200}[damage])
    assert read(context, DigestMemory(str(path))) == (digest, 3)


def test_forgotten_files_go_once_they_outweigh_the_others(context: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = DigestMemory(str(path))
    read(context, memory)
    memory.save()
    size = path.stat().st_size
    for number in range(3):
        (context / f"f{number}").unlink()
    (context / "new").write_text("n")
    for attempt in range(2):
        memory = DigestMemory(str(path))
        (context / "new").chmod(0o600 + attempt)
        read(context, memory)
        memory.save()
    assert path.stat().st_size <= size + 2 * (72 + 64)  # bytes of a file and of a folder (docs/format.md)


def test_a_memory_that_learned_nothing_is_not_written(context: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = DigestMemory(str(path))
    read(context, memory)
    memory.save()
    path.unlink()
    read(context, memory)
    memory.save()
    assert not path.exists()
