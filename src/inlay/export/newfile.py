"""Writing a file that appears when it is whole."""

from __future__ import annotations

import os
import stat
import sys

from inlay.errors import UsageError
from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO


class NewFile:
    """The file `path` to write, in a `with` block: on its end it takes the place of what was there; on an error,
    or when the process is killed, nothing has happened. `-` is standard output; a pipe or a device is written
    to as it is. Raises `OSError`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._hidden = ""

    def __enter__(self) -> BinaryIO:
        if self._path == "-":
            if sys.stdout.isatty():
                raise UsageError("an archive is not written to a terminal; redirect standard output")
            return sys.stdout.buffer
        self._file = cast("BinaryIO", open(self._descriptor(), "wb"))
        return self._file

    def _descriptor(self) -> int:
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                return os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        self._path = os.path.realpath(self._path)
        folder, name = os.path.split(self._path)
        self._hidden = f"{folder}/.{name}.{os.urandom(6).hex()}"
        try:
            # A file without a name is gone when its writer is.
            return os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
        except OSError:
            return os.open(self._hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path == "-":
            sys.stdout.buffer.flush()
            return
        try:
            with self._file:
                self._file.flush()
                if self._hidden and error is None:
                    self._appear()
        except OSError:
            if error is None:
                raise  # else it came of what is thrown away
        finally:
            if self._hidden and os.path.lexists(self._hidden):
                os.unlink(self._hidden)

    def _appear(self) -> None:
        fd = self._file.fileno()
        if not os.fstat(fd).st_nlink:
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # Only with a folder given does Python follow the first link, as is needed here.
                os.link(f"/proc/self/fd/{fd}", self._hidden, dst_dir_fd=folder)
            finally:
                os.close(folder)
        os.replace(self._hidden, self._path)
