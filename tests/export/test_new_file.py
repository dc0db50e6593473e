"""export.newfile: a file appears when it is whole, and what is no file stays what it is."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from inlay.export.newfile import NewFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["unnamed", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to hide a file that is being written: one needs a file system that has unnamed files."""
    if request.param == "named":
        real = os.open

        def without_unnamed(path: str, flags: int, mode: int = 0o777, **kwargs: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no unnamed files")
            return real(path, flags, mode, **kwargs)

        monkeypatch.setattr(os, "open", without_unnamed)
    return str(request.param)


def test_it_appears_when_it_is_whole(way: str, tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.write_text("old")
    with NewFile(str(path)) as file:
        file.write(b"whole")
        assert path.read_text() == "old"
    assert path.read_bytes() == b"whole"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert os.listdir(tmp_path) == ["new"]


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_an_error_leaves_what_was_there(way: str, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("old")
    with pytest.raises(KeyError), NewFile(str(tmp_path / "new")) as file:
        file.write(b"half")
        raise KeyError
    assert (tmp_path / "new").read_text() == "old"
    assert os.listdir(tmp_path) == ["new"]


def test_a_full_disk_leaves_what_was_there(way: str, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"), NewFile(str(tmp_path / "new")) as file:
            file.write(b"half")  # and is buffered
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "new").read_text() == "old"
    assert os.listdir(tmp_path) == ["new"]


def test_a_place_that_was_taken_meanwhile_is_left_alone(way: str, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), NewFile(str(tmp_path / "new")) as file:
        file.write(b"whole")
        (tmp_path / "new").mkdir()
    assert os.listdir(tmp_path) == ["new"]


def test_an_error_is_told_rather_than_what_comes_of_throwing_away(way: str, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
    try:
        with pytest.raises(KeyError), NewFile(str(tmp_path / "new")) as file:
            file.write(b"half")
            raise KeyError
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link(way: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with NewFile(str(tmp_path / "link")) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_pipe_is_written_to(way: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with NewFile(str(tmp_path / "pipe")) as file:
        file.write(b"through")
    reader.join(10)
    assert came == [b"through"]
    assert (tmp_path / "pipe").is_fifo()


def test_standard_output_by_its_path_is_written_to() -> None:
    script = "from inlay.export.newfile import NewFile\nwith NewFile('/dev/stdout') as file: file.write(b'through')"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"through"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), NewFile(str(tmp_path)):
        pass


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, time; from inlay.export.newfile import NewFile\n"
        "with NewFile(sys.argv[1]) as file: file.write(b'half'); print('x', flush=True); time.sleep(99)"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "new")], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.wait(10)
    writer.stdout.close()
    if os.listdir(tmp_path):
        pytest.skip("this file system has no unnamed files")
