"""Files that did not change are not read again; files that did are."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from inlay.archive import digestmemory
from inlay.archive.contenthash import content_digest
from inlay.archive.digestmemory import DigestMemory
from inlay.llb.keys import WHOLE_TREE
from inlay.sources.local import LocalContext

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
    from inlay.archive import treedigest

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
    assert path.stat().st_size <= size + 2 * digestmemory._RECORD


def test_a_memory_that_learned_nothing_is_not_written(context: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = DigestMemory(str(path))
    read(context, memory)
    memory.save()
    path.unlink()
    read(context, memory)
    memory.save()
    assert not path.exists()
