"""Whoever stops a build does not wait for files of a size that takes minutes to read."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from typing import TYPE_CHECKING

import pytest
import zstandard

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.root]

HUGE = 1 << 40
"""A file of so many bytes, all of them a hole, takes a quarter of an hour to read."""
INFLATED = 200 << 30
"""What an archive of some MB says to hold, and holds: more than a minute's work, and less than is taken for a bomb."""
BEGUN_S = 2.0
"""Once a build has computed for so long it is in the middle of it."""
SOON_S = 30
"""Long for what has been told to stop, even on a busy machine, and short for the work."""


def time_computed_s(pid: int) -> float:
    """How long the process has computed, all its threads together."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def write_inflatable_tar(path: Path) -> None:
    """A tar of one file, `zeros`, compressed so that the archive has a 1000th of its size."""
    header = tarfile.TarInfo("zeros")
    header.size = INFLATED
    frame = zstandard.compress(bytes(256 << 20))
    fill = INFLATED // 1000
    with path.open("wb") as out:
        out.write(zstandard.compress(header.tobuf(tarfile.GNU_FORMAT)))
        for _ in range(INFLATED // (256 << 20)):
            out.write(frame)
        out.write(zstandard.compress(bytes(1024)))
        out.write(b"\x50\x2a\x4d\x18" + fill.to_bytes(4, "little"))  # a frame that is skipped
        out.truncate(out.tell() + fill)


def write_inflatable_base(folder: Path) -> None:
    """An image of one layer, a tar as above, in an OCI layout."""
    (folder / "blobs/sha256").mkdir(parents=True)
    write_inflatable_tar(folder / "layer")
    with (folder / "layer").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
        "digest": f"sha256:{digest}",
        "size": (folder / "layer").stat().st_size,
    }
    (folder / "layer").rename(folder / "blobs/sha256" / digest)

    def put(media_type: str, content: object) -> dict[str, object]:
        data = json.dumps(content).encode()
        (folder / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {
            "mediaType": media_type,
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            "size": len(data),
        }

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("application/vnd.oci.image.config.v1+json", config),
        "layers": [layer],
    }
    named = {
        **put(manifest["mediaType"], manifest),
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def lay_out(context: Path, dockerfile: str) -> None:
    """What `dockerfile` names is made in the build context."""
    context.mkdir()
    (context / "Dockerfile").write_text(dockerfile)
    if "huge" in dockerfile:
        with (context / "huge").open("wb") as file:
            file.truncate(HUGE)
    if "zeros.tar" in dockerfile:
        write_inflatable_tar(context / "zeros.tar.zst")
    if "inflatable" in dockerfile:
        write_inflatable_base(context.parent / "inflatable")


GROWN = "RUN dd if=/dev/null of=/grown bs=1M seek=1048576\n"

WORK = {
    "hash a file": ("FROM scratch\nCOPY huge /\n", ()),
    "hash files aside": ("FROM scratch\nCOPY . /\n# huge\n", ()),
    "hash a stage's file": ("FROM {base} AS one\n" + GROWN + "FROM scratch\nCOPY --from=one /grown /\n", ()),
    "pack a layer": ("FROM {base}\n" + GROWN, ("-t", "never")),
    "pack a layer for a layout": ("FROM {base}\n" + GROWN, ("-o", "type=oci,dest=out.tar,compression=zstd")),
    "pack a layer plainly": ("FROM {base}\n" + GROWN, ("-o", "type=docker,dest=out.tar,compression=uncompressed")),
    "write a tar": ("FROM {base}\n" + GROWN, ("-o", "type=tar,dest=out.tar")),
    "unpack an archive": ("FROM scratch\nADD zeros.tar.zst /\n", ()),
    "unpack a layer": ("FROM inflatable AS one\nFROM {base}\nCOPY --from=one /zeros /\n", ()),
    "compress a layer anew": (
        "FROM inflatable\n",
        ("-o", "type=oci,dest=out.tar,compression=gzip,force-compression=true"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WORK)
def test_ctrl_c_ends_work_on_big_files(base: str, tmp_path: Path, what: str) -> None:
    dockerfile, options = WORK[what]
    lay_out(tmp_path / "context", dockerfile.format(base=base))
    build = start(tmp_path, *options)
    try:
        while time_computed_s(build.pid) < BEGUN_S and build.poll() is None:
            time.sleep(0.02)
        build.send_signal(signal.SIGINT)
        said = build.communicate(timeout=SOON_S)[1].decode()
        assert build.returncode == 130, said
    finally:
        build.kill()
        build.communicate()
    assert_nothing_is_left(tmp_path)


def test_a_step_that_fails_ends_work_on_big_files_beside_it(base: str, tmp_path: Path) -> None:
    lay_out(
        tmp_path / "context",
        f"FROM scratch AS other\nCOPY huge /\nFROM {base}\nRUN sleep 2; exit 7\nCOPY --from=other /huge /\n",
    )
    build = start(tmp_path)
    try:
        said = build.communicate(timeout=2 * SOON_S)[1].decode()
        assert build.returncode == 1, said
        assert "exit code: 7" in said or "exit code 7" in said
    finally:
        build.kill()
        build.communicate()
    assert_nothing_is_left(tmp_path)


def test_a_thread_that_cancels_ends_work_on_big_files(tmp_path: Path) -> None:
    import inlay as library

    lay_out(tmp_path / "context", "FROM scratch\nCOPY huge /\n")
    os.truncate(tmp_path / "context/huge", 64 << 30)
    cancellation, before = library.Cancellation(), time.process_time()

    def cancel() -> None:
        while time.process_time() - before < BEGUN_S:
            time.sleep(0.02)
        cancellation.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(library.BuildCancelled):
        library.build(tmp_path / "context", root=tmp_path / "s", cancellation=cancellation)
    thread.join()
    assert time.process_time() - before < 3 * BEGUN_S
    assert_nothing_is_left(tmp_path)


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "inlay", "build", "-q", "--root", str(folder / "s")]
    if (folder / "inflatable").exists():
        command += ["--build-context", f"inflatable=oci-layout://{folder / 'inflatable'}"]
    command += [*options, "context"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder)


def assert_nothing_is_left(folder: Path) -> None:
    """No output, and nothing in the store that is half-made, but what came of a blob whose digest is known."""
    assert set(os.listdir(folder)) <= {"context", "inflatable", "s"}
    store = folder / "s"
    assert not (store / "index.json").exists()
    assert list(store.glob("snapshots/new/*")) == list(store.glob("ingest/new-*")) == []
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        assert str(store) not in mounts.read()
