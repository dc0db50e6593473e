"""Content digests: `sha256:` and 64 hex digits, handled as text as BuildKit and OCI do."""

from __future__ import annotations

import hashlib
import re

from inlay.errors import ContentError

_SHAPE = re.compile(r"(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})\Z")


def is_digest(text: str) -> bool:
    return _SHAPE.match(text) is not None


class Digest(str):
    """A checked digest. It is a `str`: the text is what is hashed again, stored and sent."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Check `text`; raise `ContentError` when it is no digest (so it is always safe in a path)."""
        if not isinstance(text, str) or not _SHAPE.match(text):
            raise ContentError(f"{text!r:.100} is not a digest such as sha256:<64 hex digits>")
        return cls(text)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview | str) -> Digest:
        """Digest `data` with SHA-256; text counts as UTF-8."""
        return cls("sha256:" + hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest())

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]


EMPTY = Digest.of(b"")
