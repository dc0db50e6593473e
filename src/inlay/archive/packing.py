"""The pipeline that makes a blob of a layer's entries: every byte is read once, and hashed once in each form.

    sources ─ read → tar ─┬→ diff id                    this thread reads and writes the tar,
                          ├→ blocks, compressed         others compress (one for each core),
                          │      └→ digest → store      one hashes both forms and writes the blob
                          └→ layer directory            where a step is going to mount the layer

`compression.BlobWriter` has the threads and bounds what they hold.
"""

from __future__ import annotations

import os

from inlay.archive.compression import BlobWriter
from inlay.archive.diff import buildkit_xattrs
from inlay.archive.layer import apply_entries
from inlay.archive.tar import FILE, TarWriter
from inlay.errors import ContentError
from inlay.oci.descriptor import Descriptor
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from inlay.archive.codecs import Codec
    from inlay.archive.tar import TarEntry
    from inlay.content.store import ContentStore
    from inlay.digest import Digest

_READ_ONCE = 1 << 20
"""Files of so many bytes are held for the directory when they were read for the archive; of larger ones the
kernel makes the copy."""


class PackedLayer(NamedTuple):
    """A layer's blob in the store, and the digest of its archive."""

    blob: Descriptor
    diff_id: Digest


def pack_layer(
    entries: Iterable[TarEntry],
    content: ContentStore,
    codec: Codec,
    *,
    mtime_limit_ns: int | None = None,
    directory: str = "",
) -> PackedLayer:
    """Make the blob of a layer with `entries`, and fill the layer directory `directory` if that is wanted too.

    In the archive no time is after `mtime_limit_ns`, and of extended attributes only those are that BuildKit
    keeps; the directory has all as they are. Where that fails, nothing is left in the store.
    """
    with content.ingest(digested=True) as ingest:
        with BlobWriter(ingest, codec) as out:
            archive = _Archive(TarWriter(out), mtime_limit_ns)
            if directory:
                apply_entries(archive.tapped(entries), directory)
            else:
                for entry in entries:
                    archive.add(entry)
            archive.tar.close()
        packed = out.packed
        ingest.commit(packed.digest)
    return PackedLayer(Descriptor(codec.media_type, packed.digest, packed.size), packed.diff_id)


class _Archive:
    """The archive of a layer: entries, without what layers do not keep."""

    def __init__(self, tar: TarWriter, mtime_limit_ns: int | None) -> None:
        self.tar = tar
        self._limit_ns = 1 << 80 if mtime_limit_ns is None else mtime_limit_ns

    def add(self, entry: TarEntry) -> None:
        if entry.mtime_ns > self._limit_ns:
            entry = entry._replace(mtime_ns=self._limit_ns)
        if entry.xattrs:
            kept = [(name, value) for name, value in entry.xattrs if buildkit_xattrs(os.fsdecode(name))]
            entry = entry._replace(xattrs=tuple(kept))
        self.tar.add(entry)

    def tapped(self, entries: Iterable[TarEntry]) -> Iterator[TarEntry]:
        """`entries`, each added to the archive before it is passed on."""
        for entry in entries:
            if entry.kind == FILE and entry.open is not None and entry.size <= _READ_ONCE:
                entry = entry._replace(open=None, data=_content(entry))
            self.add(entry)
            yield entry


def _content(entry: TarEntry) -> bytes:
    """The data of a file. Raises `ContentError` where it has not the size that it had."""
    assert entry.open is not None
    fd = entry.open()
    try:
        data = os.read(fd, entry.size + 1)
    finally:
        os.close(fd)
    if len(data) != entry.size:
        change = "shrank" if len(data) < entry.size else "grew"
        raise ContentError(f"{os.fsdecode(entry.name)} {change} while it was read; nothing may write to it")
    return data
