"""The main build context and the Dockerfile: which of the places that a user may name they come from.

BuildKit's client decides this, and so does docker's: buildx, build/opt.go.
"""

from __future__ import annotations

import os

from inlay.errors import DockerfileError, UsageError
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

UPLOAD = "http://buildkit-session/"
"""Where BuildKit finds an archive that came by standard input. It is no part of any key."""
WEB_FILE = "context"
"""What a download is called that is the context."""
DOCKERFILE = "Dockerfile"


class MainContext(NamedTuple):
    """`folder` is a local one; else `url` is what to fetch, of git or of the web.

    `name` is the Dockerfile, below `dockerfile_folder`, or in what is fetched where that is empty; `-` for
    standard input, which has been read to `text`. `upload` is the archive that came by standard input.
    """

    folder: str = ""
    url: str = ""
    name: str = DOCKERFILE
    dockerfile_folder: str = ""
    text: bytes = b""
    upload: Upload | None = None

    @property
    def holds_dockerfile(self) -> bool:
        """Whether the Dockerfile is in what is to be fetched."""
        return bool(self.url) and not self.dockerfile_folder and self.name != "-"


class Upload:
    """Standard input, of which the beginning was looked at."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head = head
        self._stream = stream

    def readinto(self, view: memoryview) -> int:
        """Read the next bytes; 0 at the end."""
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        count = self._stream.readinto(view)  # type: ignore[attr-defined]
        return count or 0


def find_context(
    context: str, dockerfile: str, stdin: Callable[[], BinaryIO], *, empty: str, limit: int
) -> MainContext:
    """Decide where `context` and `dockerfile`, as the user wrote them, are.

    `empty` is where a folder with nothing in it can be, `stdin` opens standard input, which is read, up to
    `limit` bytes, where it is a Dockerfile. Raises `UsageError`; `DockerfileError` for a git URL with a wrong query.
    """
    if context == "-":
        return _from_stdin(dockerfile, stdin, empty, limit)
    if os.path.isdir(context):
        return _from_folder(context, dockerfile, stdin, limit)
    if not is_url(context):
        reason = "is not a folder" if os.path.exists(context) else "does not exist"
        raise UsageError(f"the build context {context} {reason}")
    if dockerfile == "-":
        return MainContext(url=context, name="-", text=_read_text(stdin, limit))
    if os.path.isabs(dockerfile):
        folder, name = os.path.split(dockerfile)
        return MainContext(url=context, name=name, dockerfile_folder=folder)
    return MainContext(url=context, name=dockerfile or DOCKERFILE)


def is_url(text: str) -> bool:
    """Whether `text` names a git repository, or a file of the web."""
    if text.startswith(("http://", "https://")):
        return True
    from inlay.dockerfile.sources import git_url

    try:
        return git_url(text) is not None
    except DockerfileError:
        return True  # it does, but wrongly: the conversion says how


def _from_stdin(dockerfile: str, stdin: Callable[[], BinaryIO], empty: str, limit: int) -> MainContext:
    from inlay.sources.archives import HEAD, is_archive

    if dockerfile == "-":
        raise UsageError("standard input can be the build context or the Dockerfile, not both")
    head = stdin().read(HEAD)
    if is_archive(head):
        url = UPLOAD + os.urandom(12).hex()
        return MainContext(url=url, name=dockerfile or DOCKERFILE, upload=Upload(head, stdin()))
    if dockerfile:
        raise UsageError(
            f"standard input is no archive, and so a Dockerfile, but -f names another one, {dockerfile}"
        )
    text = head + _read_text(stdin, limit)
    if not text:
        raise UsageError("standard input is empty: it should be an archive or a Dockerfile")
    os.makedirs(empty, mode=0o755, exist_ok=True)
    return MainContext(empty, name="-", text=text)


def _from_folder(context: str, dockerfile: str, stdin: Callable[[], BinaryIO], limit: int) -> MainContext:
    if dockerfile == "-":
        return MainContext(context, name="-", text=_read_text(stdin, limit))
    if not dockerfile:
        return MainContext(context, dockerfile_folder=context)
    # As docker does: a path of its own, or inside the context.
    inside = os.path.join(context, dockerfile)
    path = dockerfile if os.path.exists(dockerfile) or not os.path.exists(inside) else inside
    folder, name = os.path.split(path)
    return MainContext(context, name=name, dockerfile_folder=folder or ".")


def _read_text(stdin: Callable[[], BinaryIO], limit: int) -> bytes:
    text = stdin().read(limit + 1)
    if len(text) > limit:
        raise UsageError(f"the Dockerfile on standard input is larger than {limit >> 20} MiB")
    return text
