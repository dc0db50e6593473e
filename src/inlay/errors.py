"""Every error that inlay raises on purpose.

    InlayError
    ├── UsageError                 a wrong flag, option or combination of them
    ├── DockerfileError            a Dockerfile that cannot be built, with its location
    ├── SolveError                 a step that could not be done
    │   ├── ProcessFailed          … because its process exited non-zero or was killed
    │   └── SourceError            … because an image, context, git or http source could not be read
    ├── RegistryError              a registry that said no, or nothing
    │   ├── Unauthorized
    │   ├── NotFound
    │   └── RateLimited
    ├── ContentError               bytes that are not what they should be
    │   ├── BlobNotFound
    │   ├── BlobLost               … that a cached result needs and no place has any more: the step runs again
    │   ├── DigestMismatch
    │   └── UnsafeArchive          an archive that reaches outside the folder it is unpacked into
    ├── CacheError                 a cache that cannot be used: becomes a warning, never fails a build
    ├── ExportError                an image, archive or folder that could not be written
    └── BuildCancelled             a build that whoever asked for it does not want any more

Attributes carry facts; `str(error)` is one sentence that says what happened, to what, and what to do.
"""

from __future__ import annotations

import errno

from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from inlay.request import StepOutcome


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_no_room(error: BaseException | None) -> bool:
    """Whether `error` is the system's word for a full disk."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def system_error(error: OSError) -> str:
    """What the system says, of which file where it says that, and what to do about a full disk."""
    said = (error.strerror or str(error)).lower()
    if isinstance(error.filename, str | bytes):
        said = f"{error.filename!r}: {said}"
    return f"{said}; free some space, or choose another folder with --root" if is_no_room(error) else said


class InlayError(Exception):
    """The base of all errors that a caller of inlay should expect. They can be pickled, with their attributes."""

    def __reduce__(self) -> tuple[object, ...]:
        # Python's own calls the class with `args`, which are not what every class takes.
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[InlayError], args: tuple[object, ...]) -> InlayError:
    return kind.__new__(kind, *args)


class UsageError(InlayError):
    """The caller asked for something that does not exist or does not fit together."""


class Location(NamedTuple):
    """Lines of a file, counted from 1; `last_line` is included."""

    filename: str
    first_line: int
    last_line: int

    def __str__(self) -> str:
        return f"{self.filename}:{self.first_line}"


class DockerfileError(InlayError):
    """A Dockerfile that cannot be built.

    `message` is BuildKit's text, without location; `hint` is what may have been meant, or empty;
    `excerpt` holds the source lines around the location, ready to print.
    """

    def __init__(
        self, message: str, location: Location | None = None, *, hint: str = "", excerpt: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        self.hint = hint
        self.excerpt = excerpt

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        return f"{where}{self.message}{f'; did you mean {self.hint}?' if self.hint else ''}"


class SolveError(InlayError):
    """A step that could not be done; `step` is its name, `location` its place in the Dockerfile.

    `steps` holds the `StepOutcome`s of all steps that the build came to.
    """

    def __init__(self, message: str, *, step: str = "", location: Location | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.location = location
        self.excerpt = ""
        self.steps: tuple[StepOutcome, ...] = ()

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        step = f"{self.step}: " if self.step else ""
        return f"{where}{step}{self.message}"


class ProcessFailed(SolveError):
    """A RUN step's process exited with `exit_code` (128 + signal number when it was killed)."""

    def __init__(
        self, message: str, *, exit_code: int = 1, step: str = "", location: Location | None = None
    ) -> None:
        super().__init__(message, step=step, location=location)
        self.exit_code = exit_code


class SourceError(SolveError):
    """An image, build context, git repository or URL that could not be read."""


class RegistryError(InlayError):
    """A registry that refused or did not answer; `status` is the HTTP status, 0 where there was none."""

    def __init__(self, message: str, *, reference: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.reference = reference
        self.status = status


class Unauthorized(RegistryError):
    """401 or 403: no credentials, or not the right ones."""


class NotFound(RegistryError):
    """404: no such repository, tag, manifest or blob."""


class RateLimited(RegistryError):
    """429, still after all retries."""


class ContentError(InlayError):
    """Bytes that are missing or are not what they should be."""


class BlobNotFound(ContentError):
    """A blob that no place at hand has."""


class BlobLost(ContentError):
    """A layer of a cached result that its place, `location`, no longer has, or has something else for.

    `digest` is the blob's. A build that meets it forgets the results that need the blob, and goes on.
    """

    def __init__(self, message: str, *, location: str, digest: str) -> None:
        super().__init__(message)
        self.location = location
        self.digest = digest


class DigestMismatch(ContentError):
    """Content whose digest or size is not the one it was asked for by."""


class UnsafeArchive(ContentError):
    """An archive with an entry that would reach outside the folder it is unpacked into."""


class CacheError(InlayError):
    """A cache that cannot be read, written or believed. Never fails a build: it becomes a warning."""


class ExportError(InlayError):
    """A result that could not be written where it was asked for."""


class BuildCancelled(InlayError):
    """A build that ended because its `Cancellation` was cancelled."""
