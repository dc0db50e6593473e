"""Content digests: `sha256:` and 64 hex digits, handled as text as BuildKit and OCI do."""

from __future__ import annotations

import sys

from inlay.errors import ContentError
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _hashlib import HASH as Hash  # noqa: N811 - it is a class
    from collections.abc import Callable
    from hashlib import sha256 as text_sha256
else:
    try:
        if sys.version_info >= (3, 12):
            from _sha2 import sha256 as text_sha256
        else:
            from _sha256 import sha256 as text_sha256
    except ImportError:  # another Python than CPython
        from hashlib import sha256 as text_sha256

# `text_sha256` is the interpreter's own SHA-256, for texts: OpenSSL's, which `hashlib` has, is some five times as fast
# with much data, and takes 2 ms to load.

__all__ = ["EMPTY", "Digest", "hasher", "is_digest", "sha256", "text_sha256"]

_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = b"0123456789abcdef"
_slow_left = 256 << 10
"""Bytes to be hashed by the interpreter's own SHA-256, before there are enough to be worth loading OpenSSL."""
_begin = text_sha256


def is_digest(text: str) -> bool:
    algorithm, _, encoded = text.partition(":")
    if len(encoded) != _LENGTHS.get(algorithm) or not encoded.isascii():
        return False
    return not encoded.encode().translate(None, _HEX)  # a third of the time of `str.strip`


def sha256(data: bytes | bytearray | memoryview = b"", *, size: int = 0) -> Hash:
    """Begin a SHA-256 with `data`; about `size` bytes are expected in all."""
    global _slow_left, _begin
    if _slow_left > 0:
        _slow_left -= size or len(data)
        if _slow_left <= 0:
            _begin = _openssl_sha256()
    return _begin(data)


def _openssl_sha256() -> Callable[..., Hash]:
    try:
        from _hashlib import openssl_sha256
    except ImportError:  # a Python without OpenSSL
        return text_sha256
    return openssl_sha256


def hasher(algorithm: str, *, size: int) -> Hash:
    """Begin a hash of `size` bytes or so by an algorithm that `is_digest` knows."""
    if algorithm == "sha256":
        return sha256(size=size)
    import hashlib

    return hashlib.new(algorithm)


class Digest(str):
    """A checked digest. It is a `str`: the text is what is hashed again, stored and sent."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Check `text`; raise `ContentError` when it is no digest (so it is always safe in a path)."""
        if not isinstance(text, str) or not is_digest(text):
            raise ContentError(f"{text!r:.100} is not a digest such as sha256:<64 hex digits>")
        return cls(text)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview | str) -> Digest:
        """Digest `data` with SHA-256; text counts as UTF-8."""
        data = data.encode() if isinstance(data, str) else data
        return cls("sha256:" + sha256(data).hexdigest())

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]


EMPTY = Digest.of(b"")
