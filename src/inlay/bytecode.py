"""All compiled modules of this package in one file: `__pycache__/inlay.<python>.bytecode`.

To find a module, compare times, open its file and read it takes Python 60 µs, a third of what importing it takes, and
a build in which all is cached imports 130. That file holds what those of `__pycache__` hold, and is believed as
far as they are: a module is taken from it while its source has the time and size that it was compiled from. Without
it, or with one that is of no use, modules are found as always.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Entry = tuple[str, int, int, int, int]
    """Of a module: its source, from the package's folder on; time and size of that; place and length in the file."""

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_COUNT = 8
"""Bytes of the number at the start, which is the length of what comes next: the index. Then come the modules."""


class Bytecode:
    """Finds and loads modules; for `sys.meta_path`."""

    def __init__(self, path: str, fd: int, index: dict[str, Entry], package: str) -> None:
        self._path = path
        self._fd = fd
        self._index = index
        self._package = package
        self._make_spec = type(__spec__)
        self.is_old = False
        """Whether the source of a module is not the one that is in here."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        entry = self._index.get(name)
        if entry is None:
            return None
        source = f"{self._package}/{entry[0]}"
        try:
            status = os.stat(source)
        except OSError:
            return None
        if (status.st_mtime_ns, status.st_size) != entry[1:3]:
            self.is_old = True
            return None
        is_package = source.endswith("/__init__.py")
        spec = self._make_spec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        spec.cached = self._path  # else Python works out where in `__pycache__` it would be
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # an ordinary one

    def exec_module(self, module: ModuleType) -> None:
        _, _, _, place, length = self._index[module.__name__]
        exec(marshal.loads(os.pread(self._fd, length, place)), module.__dict__)


def use(package: str = _PACKAGE) -> Bytecode | None:
    """Take modules from the file from now on; None where there is none, or none for this Python and place."""
    path = _path(package)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        start = os.pread(fd, 1 << 16, 0)
        length = int.from_bytes(start[:_COUNT], "little")
        if len(start) < _COUNT + length:
            start += os.pread(fd, length, len(start))
        kind, size, index = marshal.loads(memoryview(start)[_COUNT:])
        if kind == _kind(package) and size == os.fstat(fd).st_size - length:
            bytecode = Bytecode(path, fd, index, package)
            sys.meta_path.insert(0, bytecode)
            return bytecode
    except (EOFError, ValueError, TypeError):
        pass  # half of one
    os.close(fd)
    return None


def renew(used: Bytecode | None) -> None:
    """Make the file if none was used, or an old one, as Python makes `__pycache__`: where it may, and never failing."""
    if sys.dont_write_bytecode or sys.pycache_prefix or (used is not None and not used.is_old):
        return
    if not os.access(f"{_PACKAGE}/__pycache__", os.W_OK):
        return  # it would be made for nothing, by each call
    try:
        write()
    except OSError:
        return


def write(package: str = _PACKAGE) -> None:
    """Make the file, of all modules as they are now. Raises `OSError`."""
    from importlib.machinery import SourceFileLoader

    modules: dict[str, Entry] = {}
    codes: list[bytes] = []
    place = 0
    for folder, _, files in os.walk(package):
        for file in sorted(file for file in files if file.endswith(".py")):
            source = f"{folder}/{file}"
            relative = source[len(package) + 1 :]
            name = f"inlay.{relative[:-3].replace('/', '.')}".removesuffix(".__init__")
            status = os.stat(source)
            codes.append(marshal.dumps(SourceFileLoader(name, source).get_code(name)))
            modules[name] = (relative, status.st_mtime_ns, status.st_size, place, len(codes[-1]))
            place += len(codes[-1])
    _write(package, modules, b"".join(codes))


def _write(package: str, modules: dict[str, Entry], codes: bytes) -> None:
    def head(start: int) -> bytes:
        index = {name: (*entry[:3], start + entry[3], entry[4]) for name, entry in modules.items()}
        return marshal.dumps((_kind(package), len(codes) + _COUNT, index), 0)

    length = len(head(0))  # all numbers take the same room while the file has less than 2 GiB
    path = _path(package)
    partial = f"{path}.{os.getpid()}"
    with open(partial, "wb") as out:
        out.write(length.to_bytes(_COUNT, "little") + head(_COUNT + length) + codes)
    os.replace(partial, path)


def _path(package: str) -> str:
    return f"{package}/__pycache__/inlay.{sys.implementation.cache_tag}.bytecode"


def _kind(package: str) -> tuple[str, int, str]:
    """What a file must have been made by, and where."""
    return sys.version, sys.flags.optimize, package


if __name__ == "__main__":
    write()
