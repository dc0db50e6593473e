"""layout: folders and archives are read like a registry, and distrusted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from shutil import which
from typing import TYPE_CHECKING

import pytest

from inlay.content.store import ContentStore
from inlay.digest import Digest
from inlay.errors import BlobNotFound, ContentError, DigestMismatch, UsageError
from inlay.layout import Layout, LayoutArchive, LayoutFolder, open_layout, write_archive
from inlay.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, REF_NAME, Descriptor
from inlay.oci.image import Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYER, CONFIG = (
    b"layer" * 1000,
    b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}',
)


def describe(data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


def manifest(*layers: bytes, note: str = "") -> bytes:
    fields = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe(CONFIG, OCI_CONFIG).to_json(),
        "layers": [describe(layer).to_json() for layer in layers],
        "annotations": {"note": note},
    }
    return json.dumps(fields).encode()


def write_folder(path: Path, ref: str = "v1", name: str = "") -> LayoutFolder:
    path.mkdir(exist_ok=True)
    folder = LayoutFolder(str(path))
    for blob in (LAYER, CONFIG):
        folder.push_blob(describe(blob), lambda blob=blob: io.BytesIO(blob))  # type: ignore[misc]
    folder.push_manifest(manifest(LAYER), OCI_MANIFEST, ref, name=name)
    return folder


def archive_bytes(**extra: bytes) -> bytes:
    out = io.BytesIO()
    raw = manifest(LAYER)
    image = describe(raw, OCI_MANIFEST).annotated({REF_NAME: "v1"})
    blobs = [(describe(data), lambda data=data: io.BytesIO(data)) for data in (LAYER, CONFIG, raw, LAYER)]
    write_archive(out, [image], blobs, extra=list(extra.items()))  # type: ignore[arg-type]
    return out.getvalue()


@pytest.fixture(params=["folder", "archive", "foreign archive"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layout]:
    """One image `v1`, in each form; the foreign archive is written by tarfile, with a `./` before names."""
    if request.param == "folder":
        yield write_folder(tmp_path / "oci")
        return
    path = tmp_path / "oci.tar"
    if request.param == "archive":
        path.write_bytes(archive_bytes())
    else:
        folder = write_folder(tmp_path / "oci")
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(folder.path, ".")
    opened = open_layout(str(path))
    assert isinstance(opened, LayoutArchive)
    yield opened
    opened.close()


def test_an_image_is_found_by_tag_digest_and_alone(layout: Layout) -> None:
    raw = manifest(LAYER)
    for ref in ("v1", str(Digest.of(raw)), ""):
        assert layout.resolve(ref)[:3] == describe(raw, OCI_MANIFEST)[:3]
        assert layout.fetch_manifest(ref).raw == raw
    assert [d.annotation(REF_NAME) for d in layout.images()] == ["v1"]


def test_blobs_are_read_verified_and_from_an_offset(layout: Layout, tmp_path: Path) -> None:
    assert layout.has_blob(describe(LAYER))
    assert layout.read_blob(describe(LAYER), 1 << 20) == LAYER
    with layout.open_blob(describe(LAYER), 4000) as stream:
        assert stream.read() == LAYER[4000:]
    store = ContentStore(str(tmp_path / "store"))
    store.fetch(describe(LAYER), layout)
    assert store.read(describe(LAYER).digest, 1 << 20) == LAYER


def test_what_a_layout_lacks_is_said(layout: Layout) -> None:
    missing = describe(b"missing")
    assert not layout.has_blob(missing)
    with pytest.raises(BlobNotFound):
        layout.read_blob(missing, 100)
    for ref in ("v2", str(missing.digest), "../v1"):
        with pytest.raises(BlobNotFound, match=r"has no image .* \(it has v1\)"):
            layout.resolve(ref)
    with pytest.raises(ContentError, match="more than the 10"):
        layout.read_blob(describe(LAYER), 10)
    assert not layout.has_blob(describe(LAYER)._replace(size=1))


def test_an_unlisted_manifest_is_found_by_its_digest(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci")
    child = folder.push_manifest(manifest(), OCI_MANIFEST)
    assert len(folder.images()) == 1
    assert folder.resolve(child.digest) == child


def test_a_tag_and_name_are_replaced_together(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci", name="docker.io/library/app:v1", ref="")
    folder.push_manifest(manifest(note="other"), OCI_MANIFEST, name="docker.io/library/other:v1")
    new = folder.push_manifest(manifest(note="new"), OCI_MANIFEST, name="docker.io/library/app:v1")
    assert [d.annotation(REF_NAME) for d in folder.images()] == ["v1", "v1"]
    assert folder.resolve("docker.io/library/app:v1").digest == new.digest
    with pytest.raises(BlobNotFound, match="2 images; name one"):
        folder.resolve("")


def test_what_refers_to_an_image_is_found_and_is_no_image_of_its_own(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci")
    image = folder.resolve("v1")
    assert folder.referrers(image.digest) == ()
    pushed = []
    for note, kind in (("one", "a/cache"), ("two", "a/signature"), ("three", "a/cache")):
        raw = manifest(note=note)
        pushed.append(describe(raw, OCI_MANIFEST)._replace(artifact_type=kind))
        folder.push_referrer(raw, pushed[-1], image.digest, pushed[:1] if note == "three" else ())
    assert folder.referrers(image.digest) == (pushed[1], pushed[2])
    assert folder.referrers(image.digest, "a/cache") == (pushed[2],)
    assert folder.resolve("") == image


def test_a_second_push_of_a_blob_copies_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci")
    assert folder.push_blob(describe(LAYER), lambda: pytest.fail("opened")) == "exists"
    assert sorted(os.listdir(folder.path)) == ["blobs", "index.json", "oci-layout"]


def test_wrong_bytes_are_not_pushed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci")
    other = describe(b"other")
    with pytest.raises(DigestMismatch):
        folder.push_blob(other, lambda: io.BytesIO(b"wrong"))
    assert not folder.has_blob(other)
    assert "ingest" not in os.listdir(folder.path)


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci")

    def work(number: int) -> None:
        mine = LayoutFolder(folder.path)
        data = b"%d" % number * 1000
        mine.push_blob(describe(data), lambda: io.BytesIO(data))
        mine.push_manifest(manifest(data), OCI_MANIFEST, f"n{number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {d.annotation(REF_NAME) for d in folder.images()} == {"v1", *(f"n{n}" for n in range(12))}


def test_an_archive_has_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    raw = manifest(LAYER)
    written = []
    for order in (1, -1):
        out = io.BytesIO()
        blobs = [(describe(d), lambda d=d: io.BytesIO(d)) for d in (LAYER, CONFIG, raw)][::order]
        write_archive(out, [describe(raw, OCI_MANIFEST)], blobs)  # type: ignore[arg-type]
        written.append(out.getvalue())
    assert written[0] == written[1]
    with tarfile.open(fileobj=io.BytesIO(written[0])) as tar:
        names = tar.getnames()
        assert names == sorted(names)
        assert {(m.mtime, m.uid, m.gid) for m in tar.getmembers()} == {(0, 0, 0)}


def test_an_archive_is_not_written_from_wrong_bytes() -> None:
    with pytest.raises(DigestMismatch):
        write_archive(io.BytesIO(), [], [(describe(LAYER), lambda: io.BytesIO(b"wrong" * 1000))])


def test_extra_files_lie_beside_the_index() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive_bytes(**{"manifest.json": b"[]"}))) as tar:
        assert "manifest.json" in tar.getnames()


@pytest.mark.skipif(which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_skopeo_reads_it(form: str, tmp_path: Path) -> None:
    path = tmp_path / "oci"
    if form == "oci":
        write_folder(path)
    else:
        path.write_bytes(archive_bytes())
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"{form}:{path}:v1"], capture_output=True, check=False
    )
    assert done.stdout == manifest(LAYER), done.stderr


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    for number, name in enumerate(("blobs", "blobs/sha256", f"blobs/sha256/{describe(LAYER).digest.hex}")):
        folder = write_folder(tmp_path / str(number))
        target = os.path.join(folder.path, name)
        os.rename(target, tmp_path / f"moved{number}")
        os.symlink(tmp_path / f"moved{number}", target)
        with pytest.raises(ContentError, match="cannot be opened"):
            folder.read_blob(describe(LAYER), 1 << 20)
        with pytest.raises(ContentError, match="cannot be opened"):
            folder.push_blob(describe(LAYER), lambda: io.BytesIO(LAYER))
    folder = write_folder(tmp_path / "index")
    os.rename(f"{folder.path}/index.json", tmp_path / "index.json")
    os.symlink(tmp_path / "index.json", f"{folder.path}/index.json")
    with pytest.raises(ContentError, match=r"index\.json cannot be opened: it is a symlink"):
        folder.resolve("v1")


def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci")
    os.unlink(f"{folder.path}/index.json")
    os.mkfifo(f"{folder.path}/index.json")
    with pytest.raises(ContentError, match="no regular file"):
        folder.resolve("v1")


def test_digests_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = write_folder(tmp_path / "oci")
    listed = describe(manifest(LAYER), OCI_MANIFEST).to_json()
    for digest in ("sha256:../../../secret", "../../../secret", "sha256:" + "A" * 64):
        index = {"schemaVersion": 2, "manifests": [{**listed, "digest": digest}]}
        (tmp_path / "oci" / "index.json").write_text(json.dumps(index))
        with pytest.raises(ContentError, match="not a digest"):
            folder.resolve("v1")
        with pytest.raises(ContentError, match="not a digest"):
            folder.has_blob(Descriptor(OCI_LAYER, Digest(digest), 6))


def test_changed_blobs_are_noticed(layout: Layout) -> None:
    if not isinstance(layout, LayoutFolder):
        pytest.skip("the archive was opened already")
    path = f"{layout.path}/blobs/sha256/{describe(LAYER).digest.hex}"
    with open(path, "r+b") as file:
        file.write(b"LAYER")
    with pytest.raises(DigestMismatch):
        layout.read_blob(describe(LAYER), 1 << 20)


@pytest.mark.parametrize("index", [b"", b"[]", b"{", b'{"manifests":3}', b'{"manifests":[{}]}', b"\xff"])
def test_a_broken_index_is_named(index: bytes, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci")
    (tmp_path / "oci" / "index.json").write_bytes(index)
    with pytest.raises(ContentError, match=r"index\.json"):
        folder.resolve("v1")


def test_places_that_are_no_layout_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the OCI layout .*none"):
        open_layout(str(tmp_path / "none"))
    with pytest.raises(ContentError, match="no OCI image layout"):
        open_layout(str(tmp_path)).resolve("x")
    for data, error in ((b"\x1f\x8b" + bytes(600), "compressed with gzip"), (b"x" * 1024, "archive")):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(ContentError, match=error):
            open_layout(str(tmp_path / "file"))


def test_an_archive_with_two_files_of_one_name_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("index.json"), io.BytesIO())
    with pytest.raises(ContentError, match=r"two files 'index\.json'"):
        open_layout(str(tmp_path / "x.tar"))


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    data = archive_bytes()
    end = data.index(LAYER) + 100
    (tmp_path / "x.tar").write_bytes(data[:end])
    with pytest.raises(ContentError), open_layout(str(tmp_path / "x.tar")) as layout:
        layout.resolve("v1")


def test_index_of_an_index_keeps_its_type(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "oci")
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    folder.push_manifest(raw, OCI_INDEX, "multi")
    assert folder.fetch_manifest("multi").media_type == OCI_INDEX
    assert hashlib.sha256(raw).hexdigest() == folder.resolve("multi").digest.hex


def test_blobs_that_nothing_leads_to_are_deleted_and_no_others(tmp_path: Path) -> None:
    folder = LayoutFolder(str(tmp_path))
    config, blob, old = (Descriptor(kind, Digest.of(kind), len(kind)) for kind in ("config", "layer", "old"))
    for each in (config, blob, old):
        folder.push_blob(each, lambda each=each: io.BytesIO(each.media_type.encode()))  # type: ignore[misc]
    manifest = {"schemaVersion": 2, "config": config.to_json(), "layers": [blob.to_json()]}
    inner = folder.push_manifest(json.dumps(manifest).encode(), OCI_MANIFEST)
    index = {"schemaVersion": 2, "manifests": [inner.to_json()]}
    folder.push_manifest(json.dumps(index).encode(), OCI_INDEX, "latest")
    assert folder.delete_unreferenced() == [old.digest]
    assert folder.delete_unreferenced() == []
    assert folder.has_blob(config)
    assert folder.has_blob(blob)
    assert isinstance(folder.fetch_manifest("latest"), Index)


def test_nothing_is_deleted_where_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    folder = LayoutFolder(str(tmp_path))
    old = Descriptor("x", Digest.of("old"), 3)
    folder.push_blob(old, lambda: io.BytesIO(b"old"))
    broken = {"schemaVersion": 2, "manifests": [Descriptor(OCI_MANIFEST, Digest.of("gone"), 4).to_json()]}
    folder.push_manifest(json.dumps(broken).encode(), OCI_INDEX, "latest")
    with pytest.raises(ContentError):
        folder.delete_unreferenced()
    assert folder.has_blob(old)


def test_an_archive_is_a_regular_file(tmp_path: Path) -> None:
    """Opening a pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ContentError, match="pipe is neither a folder nor an archive in a regular file"):
        open_layout(str(tmp_path / "pipe"))
