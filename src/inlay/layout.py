"""OCI image layouts: a folder or a tar archive that holds images as a registry's repository would.

Reading looks the same from a folder, an archive and a `Repository`: `resolve`, `fetch_manifest`, `read_blob`,
`open_blob`. A layout is taken for hostile: its blobs are verified, no symlink in it is followed, and nothing
but its own files is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat

from inlay import json
from inlay.content.ingest import CHUNK
from inlay.content.store import ContentStore, VerifyingReader
from inlay.digest import Digest
from inlay.errors import BlobNotFound, ContentError, ExportError, UsageError
from inlay.oci.descriptor import INDEXES, MANIFESTS, OCI_INDEX, REF_NAME, Descriptor
from inlay.oci.image import Index, Manifest, parse_manifest
from inlay.oci.referrers import is_referrers_tag, referrers_tag, with_referrer
from inlay.system.filebytes import replace_file
from inlay.tasks import check_cancelled
from inlay.typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import BinaryIO, Literal, Self

    OpenSource = Callable[[], BinaryIO]

IMAGE_NAME = "io.containerd.image.name"
"""Annotation of a listed image: its full name, as containerd and BuildKit write it."""
MANIFEST_LIMIT = 4 << 20
_INDEX_LIMIT = 16 << 20
_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_MAX_MEMBERS = 1 << 20
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class Layout:
    """What a layout can be asked, wherever it lies; a `BlobSource`. A broken one raises `ContentError`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return self.path

    def close(self) -> None:
        """Close what is held open; nothing for a folder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, name: str) -> tuple[BinaryIO, int]:
        """Open the file `name` of the layout; also return its size. Raises `BlobNotFound`."""
        raise NotImplementedError

    def images(self) -> tuple[Descriptor, ...]:
        """What index.json lists, in its order."""
        try:
            raw = self._read("index.json", _INDEX_LIMIT)
        except BlobNotFound:
            raise ContentError(f"{self.path} is no OCI image layout: it has no index.json") from None
        try:
            index = parse_manifest(raw, OCI_INDEX)
        except ContentError as error:
            raise ContentError(f"{self.path}/index.json: {error}") from error
        return index.manifests if isinstance(index, Index) else ()

    def resolve(self, ref: str = "") -> Descriptor:
        """The descriptor of the image that `ref` names: by its full name, tag or digest; of the only image
        there is when `ref` is empty. A digest need not be listed. Raises `BlobNotFound`."""
        images = self.images()
        if not ref:
            images = tuple(each for each in images if not is_referrers_tag(each.annotation(REF_NAME)))
            if len(images) == 1:
                return images[0]
        for annotation in (IMAGE_NAME, REF_NAME):
            for descriptor in images:
                if ref and descriptor.annotation(annotation) == ref:
                    return descriptor
        if ":" in ref and (found := self._by_digest(ref, images)):
            return found
        names = [descriptor.annotation(REF_NAME) or str(descriptor.digest) for descriptor in images]
        wanted = f"no image {ref!r:.200}" if ref else f"{len(images)} images; name one"
        raise BlobNotFound(f"{self.path} has {wanted} (it has {', '.join(names[:10]) or 'none'})")

    def _by_digest(self, ref: str, images: Sequence[Descriptor]) -> Descriptor | None:
        try:
            digest = Digest.parse(ref)
        except ContentError:
            return None
        for descriptor in images:
            if descriptor.digest == digest:
                return descriptor
        try:
            stream, size = self._open(_blob_name(digest))
        except BlobNotFound:
            return None
        stream.close()
        unnamed = Descriptor("", digest, size)
        return parse_manifest(self.read_blob(unnamed, MANIFEST_LIMIT)).descriptor

    def fetch_manifest(self, ref: str = "") -> Manifest | Index:
        """Read the manifest or index that `ref` names (see `resolve`), verified."""
        descriptor = self.resolve(ref)
        try:
            return parse_manifest(self.read_blob(descriptor, MANIFEST_LIMIT), descriptor.media_type)
        except ContentError as error:
            raise type(error)(f"{self.path}: {error}") from error

    def referrers(self, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Descriptors of the manifests whose subject is `subject`, of one artifact type where that is given."""
        index = parse_manifest(self._referrers(subject) or b'{"manifests":[]}', OCI_INDEX)
        found = index.manifests if isinstance(index, Index) else ()
        return tuple(each for each in found if not artifact_type or each.artifact_type == artifact_type)

    def _referrers(self, subject: Digest) -> bytes:
        """The index of what refers to `subject`; empty where there is none."""
        tag = referrers_tag(subject)
        for descriptor in self.images():
            if descriptor.annotation(REF_NAME) == tag:
                return self.read_blob(descriptor, MANIFEST_LIMIT)
        return b""

    def has_blob(self, descriptor: Descriptor) -> bool:
        try:
            stream, size = self._open(_blob_name(descriptor.digest))
        except BlobNotFound:
            return False
        stream.close()
        return size == descriptor.size

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        stream, size = self._open(_blob_name(descriptor.digest))
        if size != descriptor.size:
            stream.close()
            said = f"has {size} bytes, expected {descriptor.size}"
            raise BlobNotFound(f"blob {descriptor.digest} in {self.path} {said}")
        if offset:
            stream.seek(offset)
        if verify and not offset:
            return cast("BinaryIO", VerifyingReader(stream, descriptor, place=self.path))
        return stream

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        if descriptor.size > limit:
            said = f"{descriptor.size} bytes, more than the {limit} that are read of its kind"
            raise ContentError(f"blob {descriptor.digest} in {self.path} has {said}")
        with self.open_blob(descriptor) as stream:
            return stream.read()

    def _read(self, name: str, limit: int) -> bytes:
        stream, size = self._open(name)
        with stream:
            if size > limit:
                raise ContentError(
                    f"{self.path}/{name} has {size} bytes, more than the {limit} that are read"
                )
            return stream.read()


class LayoutFolder(Layout):
    """A layout in a folder; can also be written to, as a `Repository` can, by several processes at once."""

    def _open(self, name: str) -> tuple[BinaryIO, int]:
        *folders, last = name.split("/")
        try:
            here = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for folder in folders:
                here = _step(here, folder, os.O_DIRECTORY)
            fd = _step(here, last, os.O_NONBLOCK)
        except FileNotFoundError:
            raise BlobNotFound(f"{self.path} has no {name}") from None
        except OSError as error:
            raise ContentError(f"{self.path}/{name} cannot be opened: {_reason(error)}") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise ContentError(f"{self.path}/{name} is no regular file")
        return cast("BinaryIO", open(fd, "rb", buffering=0)), status.st_size

    def push_blob(
        self, descriptor: Descriptor, open_source: OpenSource, *, mount_from: str = "", is_new: bool = False
    ) -> Literal["exists", "pushed"]:
        """Copy a blob in, verified, unless it is here. Raises `ContentError`."""
        if self.has_blob(descriptor):
            return "exists"
        with (
            self._writable() as store,
            open_source() as stream,
            store.ingest(descriptor.digest, descriptor.size) as ingest,
        ):
            ingest.restart()
            view = memoryview(bytearray(min(CHUNK, max(descriptor.size, 1))))
            while count := stream.readinto(view):  # type: ignore[attr-defined]
                check_cancelled()
                ingest.write(view[:count])
            ingest.commit()
        return "pushed"

    def push_manifest(
        self,
        raw: bytes,
        media_type: str,
        ref: str = "",
        *,
        name: str = "",
        notes: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Write a manifest or index, and list it under the tag `ref` and the full `name`, in the place of
        what had both before, with more annotations. Without either it is only a blob, for an index to refer to."""
        descriptor = Descriptor(media_type, Digest.of(raw), len(raw))
        self.push_blob(descriptor, lambda: io.BytesIO(raw))
        if ref or name:
            self._list(descriptor.annotated(notes or {}), ref or _tag_of(name), name)
        return descriptor

    def push_referrer(
        self, raw: bytes, referrer: Descriptor, subject: Digest, replaced: Sequence[Descriptor] = ()
    ) -> None:
        """Write a manifest whose subject is `subject`, and list it for `referrers`, in the place of `replaced`."""
        self.push_blob(referrer, lambda: io.BytesIO(raw))
        with self._locked():
            index = with_referrer(self._referrers(subject), referrer, replaced)
            descriptor = Descriptor(OCI_INDEX, Digest.of(index), len(index))
            self.push_blob(descriptor, lambda: io.BytesIO(index))
            self._rewrite(descriptor.annotated({REF_NAME: referrers_tag(subject)}))

    def delete_unreferenced(self) -> list[Digest]:
        """Delete the blobs that nothing in index.json leads to; return them. What another writer has brought in
        and not yet listed is among them. Raises `ContentError` where a manifest cannot be read: then none are."""
        wanted: dict[Digest, None] = {}
        todo = list(self.images())
        while todo:
            descriptor = todo.pop()
            if descriptor.digest in wanted:
                continue
            wanted[descriptor.digest] = None
            if descriptor.media_type in (*MANIFESTS, *INDEXES):
                raw = self.read_blob(descriptor, MANIFEST_LIMIT)
                manifest = parse_manifest(raw, descriptor.media_type)
                todo += (
                    manifest.manifests if isinstance(manifest, Index) else (manifest.config, *manifest.layers)
                )
        store = ContentStore(self.path)
        unwanted = [blob.digest for blob in store.blobs() if blob.digest not in wanted]
        return [digest for digest in unwanted if store.delete(digest)]

    def unlist(self, is_unwanted: Callable[[Descriptor], bool]) -> None:
        """Take images out of index.json. Their blobs stay."""
        with self._locked():
            listed = self.images()
            kept = [each for each in listed if not is_unwanted(each)]
            if len(kept) < len(listed):
                self._write("index.json", _encode_index(kept))

    @contextlib.contextmanager
    def _writable(self) -> Iterator[ContentStore]:
        store = ContentStore(self.path)
        try:
            yield store
        finally:
            with contextlib.suppress(OSError):  # another writer may be using it
                os.rmdir(f"{self.path}/ingest")

    def _list(self, descriptor: Descriptor, ref: str, name: str) -> None:
        """Put an image into index.json."""
        notes = {REF_NAME: ref, IMAGE_NAME: name}
        with self._locked():
            self._rewrite(descriptor.annotated({key: value for key, value in notes.items() if value}))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers of index.json out."""
        try:
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise ExportError(f"cannot write {self.path}/index.json: {_reason(error)}") from error

    def _rewrite(self, descriptor: Descriptor) -> None:
        """List `descriptor` in index.json, which changes by rename. Only under the lock."""
        self._write("oci-layout", _MARKER)
        self._write("index.json", _encode_index([*self._others(descriptor), descriptor]))

    def _others(self, descriptor: Descriptor) -> list[Descriptor]:
        """The listed images that stay when `descriptor` comes."""
        try:
            os.stat(f"{self.path}/index.json", follow_symlinks=False)
        except FileNotFoundError:
            return []
        notes = (REF_NAME, IMAGE_NAME)
        key = [descriptor.annotation(note) for note in notes]
        try:
            listed = self.images()
        except ContentError as error:
            raise ExportError(
                f"{error}; it cannot be added to: delete the file, or write elsewhere"
            ) from error
        return [other for other in listed if [other.annotation(note) for note in notes] != key]

    def _write(self, name: str, data: bytes) -> None:
        replace_file(f"{self.path}/{name}", data)


class _Member(NamedTuple):
    offset: int
    size: int


class LayoutArchive(Layout):
    """A layout in an uncompressed tar archive, whose members are read where they lie. Close it after use."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # does not wait for a pipe's writer
        self._file = open(fd, "rb", buffering=0)  # noqa: SIM115 # closed by `close`
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ContentError(f"{path} is neither a folder nor an archive in a regular file")
            self._members = self._find_members()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _find_members(self) -> dict[str, _Member]:
        """Where each regular file of the archive lies. Links and the like are no part of a layout."""
        from inlay.archive.tar import BLOCK, FILE
        from inlay.archive.untar import TarReader

        for magic, compression in _COMPRESSIONS.items():
            if os.pread(self._file.fileno(), len(magic), 0) == magic:
                raise ContentError(f"{self.path} is compressed with {compression}; unpack that first")
        members: dict[str, _Member] = {}
        offset = 0
        while len(members) < _MAX_MEMBERS:
            reader = TarReader(_At(self._file.fileno(), offset), buffer_size=BLOCK)
            entry = next(iter(reader), None)
            if entry is None:
                return members
            offset += reader.position
            name = os.fsdecode(entry.name).removeprefix("./")
            if entry.kind == FILE:
                if members.setdefault(name, _Member(offset, entry.size)).offset != offset:
                    raise ContentError(f"{self.path} has two files {name!r:.100}")
                offset += entry.size + -entry.size % BLOCK
        raise ContentError(f"{self.path} has more than {_MAX_MEMBERS} files")

    def _open(self, name: str) -> tuple[BinaryIO, int]:
        if name not in self._members:
            raise BlobNotFound(f"{self.path} has no {name}")
        member = self._members[name]
        return cast("BinaryIO", _Slice(os.dup(self._file.fileno()), *member)), member.size


class _At:
    """A file's bytes from an offset on, leaving its position alone."""

    __slots__ = ("_fd", "_offset")

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._offset = offset

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        count = os.preadv(self._fd, [buffer], self._offset)
        self._offset += count
        return count


class _Slice(io.RawIOBase):
    """Part of a file as a stream of its own; it owns `fd`."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._start = offset
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")[: max(self._size - self._at, 0)]
        count = os.preadv(self._fd, [view], self._start + self._at) if view else 0
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def open_layout(path: str) -> Layout:
    """The layout at `path`, a folder or a tar archive. Raises `UsageError` when there is nothing."""
    try:
        return LayoutFolder(path) if os.path.isdir(path) else LayoutArchive(path)
    except OSError as error:
        raise UsageError(f"cannot read the OCI layout {path}: {_reason(error)}") from error


def write_archive(
    out: BinaryIO,
    images: Sequence[Descriptor],
    blobs: Iterable[tuple[Descriptor, OpenSource]],
    *,
    extra: Sequence[tuple[str, bytes]] = (),
) -> None:
    """Write a layout as a tar archive to `out`, which need not be seekable.

    `images` are what index.json lists, annotated; `blobs` all blobs, manifests included, equal ones once.
    `extra` are more files at the top, such as docker's manifest.json. The bytes depend on these alone:
    members are sorted by name, and have no times and owners.
    """
    by_name = {_blob_name(descriptor.digest): (descriptor, source) for descriptor, source in blobs}
    files = {"index.json": _encode_index(images), "oci-layout": _MARKER, **dict(extra)}
    folders = {"blobs", *(name.rpartition("/")[0] for name in by_name)}
    from inlay.archive.tar import BLOCK, DIRECTORY, FILE, TarEntry, encode_header

    for name in sorted((*by_name, *files, *folders)):
        if name in folders:
            out.write(encode_header(TarEntry(name.encode(), DIRECTORY, mode=0o755)))
            continue
        size = by_name[name][0].size if name in by_name else len(files[name])
        out.write(encode_header(TarEntry(name.encode(), FILE, size=size)))
        if name in by_name:
            _copy_verified(out, *by_name[name])
        else:
            out.write(files[name])
        out.write(bytes(-size % BLOCK))
    out.write(bytes(2 * BLOCK))


def _copy_verified(out: BinaryIO, descriptor: Descriptor, source: OpenSource) -> None:
    view = memoryview(bytearray(min(CHUNK, max(descriptor.size, 1))))
    with VerifyingReader(source(), descriptor) as stream:
        while count := stream.readinto(view):
            check_cancelled()
            out.write(view[:count])


def _encode_index(images: Iterable[Descriptor]) -> bytes:
    manifests = [descriptor.to_json() for descriptor in images]
    fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    return json.dumps(fields, ensure_ascii=False).encode()


def _blob_name(digest: Digest) -> str:
    digest = Digest.parse(digest)
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _tag_of(name: str) -> str:
    """The tag of an image's full name."""
    return name.partition("@")[0].rpartition("/")[2].partition(":")[2] or "latest"


def _step(folder_fd: int, name: str, flags: int) -> int:
    """Open `name` in a folder, which is closed; never through a symlink."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def _reason(error: OSError) -> str:
    return "it is a symlink" if error.errno == errno.ELOOP else error.strerror or str(error)
