"""What a download is: an archive or not, and of what time."""

from __future__ import annotations

from inlay.archive.compression import decompress
from inlay.archive.tar import BLOCK, FILE
from inlay.archive.untar import TarReader, is_header
from inlay.errors import ContentError

HEAD = 1024
"""Bytes that tell what a file is."""
_PACKED = (b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


def is_archive(head: bytes) -> bool:
    """Whether a file that begins like this is a tar or compressed, rather than a Dockerfile.

    BuildKit: frontend/dockerui/context.go `isArchive`; zstd is known here as well.
    """
    return head.startswith(_PACKED) or (len(head) >= BLOCK and is_header(head[:BLOCK]))


def newest_file(path: str) -> int | None:
    """Seconds since the epoch of the youngest regular file in the archive at `path`; None where it is none."""
    newest = None
    try:
        with open(path, "rb", buffering=0) as file:
            for member in TarReader(decompress(file)):
                if member.kind == FILE:
                    newest = max(member.mtime_ns // 10**9, newest or 0)
    except (ContentError, OSError):
        return None
    return newest
