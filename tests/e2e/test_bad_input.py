"""Hostile archives, images, contexts and steps: each is contained, and the error names the place and what to do."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ordinary import GID, UID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ordinary import User
    from running import Outcome

    Build = Callable[..., Outcome]

pytestmark = [pytest.mark.e2e, pytest.mark.root]

OUTSIDE = "kept as it is\n"


class Place(NamedTuple):
    """Who builds, in a folder of theirs."""

    inlay: Callable[..., Outcome]
    folder: Path
    uid: int
    gid: int


@pytest.fixture(params=["root", "user"])
def place(request: pytest.FixtureRequest, inlay: Callable[..., Any], tmp_path: Path) -> Place:
    """`root`, and an ordinary `user`."""
    if request.param == "root":
        return Place(inlay, tmp_path, 0, 0)
    user: User = request.getfixturevalue("users")()
    return Place(user.inlay, user.home, UID, GID)


@pytest.fixture
def folder(place: Place) -> Path:
    return place.folder


@pytest.fixture
def build(place: Place, folder: Path) -> Iterator[Build]:
    """Build a Dockerfile's text in `folder/context`. A file beside the store must stay as it is."""
    (folder / "context").mkdir()
    (folder / "outside").write_text(OUTSIDE)
    os.chown(folder / "outside", place.uid, place.gid)
    before = (folder / "outside").stat()

    def run(dockerfile: str, *flags: str) -> Outcome:
        (folder / "context/Dockerfile").write_text(dockerfile)
        command = ("build", "--progress", "plain", "--root", str(folder / "s"))
        done: Outcome = place.inlay(*command, *flags, str(folder / "context"))
        assert "Traceback" not in done.err
        return done

    yield run
    after = (folder / "outside").stat()
    assert (folder / "outside").read_text() == OUTSIDE
    assert (after.st_mode, after.st_uid, after.st_nlink) == (before.st_mode, before.st_uid, 1)
    assert {path.name for path in folder.iterdir()} <= {"context", "outside", "s", "out", "image"}


def failed(done: Outcome, line: int, *words: str) -> None:
    """The build failed, and its last line says where, and all of `words`."""
    assert done.code == 1, done.err
    message = done.err.rstrip("\n").splitlines()[-1]
    assert message.startswith(f"inlay: Dockerfile:{line}: "), done.err
    assert all(word in message for word in words), message


# -- archives and images ----------------------------------------------------------------------------------


def archive(*members: tuple[str, bytes, str]) -> bytes:
    """A tar of (name, type, link) members; files hold "evil"."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"evil") if member.size else None)
    return data.getvalue()


FILE, LINK, HARD_LINK, NODE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.BLKTYPE


def escapes(target: Path) -> dict[str, bytes]:
    """Archives that try to change `target`, by how."""
    up = "../" * 30 + str(target).lstrip("/")
    return {
        "dots": archive((up, FILE, "")),
        "absolute": archive((str(target), FILE, "")),
        "symlink": archive(("l", LINK, str(target)), ("l", FILE, "")),
        "symlinked-folder": archive(("d", LINK, str(target.parent)), ("d/outside", FILE, "")),
        "relative-symlink": archive(
            ("d", LINK, "../" * 30 + str(target.parent)[1:]), ("d/outside", FILE, "")
        ),
        "hard-link": archive(("h", HARD_LINK, str(target)), ("h", FILE, "")),
        "hard-link-up": archive(("h", HARD_LINK, up), ("h", FILE, "")),
        "whiteout": archive(("d", LINK, str(target.parent)), ("d/.wh.outside", FILE, "")),
    }


BY = [("root", how) for how in escapes(Path("/x"))]
BY += [("user", how) for how in ("dots", "symlinked-folder", "hard-link", "whiteout")]


def make_image(layout: Path, layer: bytes) -> str:
    """An OCI layout of an image with this one layer; returns the digest of its manifest."""
    (layout / "blobs/sha256").mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    media = "application/vnd.oci.image"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{media}.manifest.v1+json",
        "config": {"mediaType": f"{media}.config.v1+json", **put(json.dumps(config).encode())},
        "layers": [{"mediaType": f"{media}.layer.v1.tar+gzip", **put(gzip.compress(layer))}],
    }
    descriptor = {"mediaType": manifest["mediaType"], **put(json.dumps(manifest).encode())}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    return str(descriptor["digest"])


@pytest.mark.parametrize(("place", "how"), BY, indirect=["place"])
def test_archives_cannot_leave_the_destination(build: Build, folder: Path, how: str) -> None:
    (folder / "context/x.tar").write_bytes(escapes(folder / "outside")[how])
    done = build("FROM scratch\nADD x.tar /to/\n", "-o", str(folder / "out"))
    if done.code:
        failed(done, 2, "ADD x.tar")
    else:
        assert {path.name for path in (folder / "out").iterdir()} == {"to"}


@pytest.mark.parametrize(("place", "how"), BY, indirect=["place"])
def test_layers_cannot_leave_the_root(build: Build, folder: Path, how: str) -> None:
    digest = make_image(folder / "image", escapes(folder / "outside")[how])
    layout = f"base=oci-layout://{folder}/image@{digest}"
    done = build("FROM base\nCOPY Dockerfile /\n", "--build-context", layout, "-o", str(folder / "out"))
    if done.code:
        assert done.err.rstrip("\n").splitlines()[-1].startswith("inlay: "), done.err
        assert "layer sha256:" in done.err


@pytest.mark.parametrize(
    ("member", "word"),
    [
        (("n" * 256, FILE, ""), "too long"),
        (("a/" + "n" * 256 + "/b", FILE, ""), "too long"),
        (("h", HARD_LINK, "gone"), "gone"),
    ],
)
def test_impossible_members_are_named(
    build: Build, folder: Path, member: tuple[str, bytes, str], word: str
) -> None:
    (folder / "context/x.tar").write_bytes(archive(member))
    failed(build("FROM scratch\nADD x.tar /to/\n"), 2, word)


def test_archives_that_unpack_to_more_than_they_can_are_stopped(build: Build, folder: Path) -> None:
    sparse = folder / "context/hole"
    with sparse.open("wb") as file:
        file.truncate(1 << 43)  # eight TiB of nothing; the archive has 10 KiB
    subprocess.run(["tar", "-cSf", folder / "context/x.tar", "-C", sparse.parent, "hole"], check=True)
    sparse.unlink()
    failed(build("FROM scratch\nADD x.tar /to/\n"), 2, "unpacks to more than")
    digest = make_image(folder / "image", (folder / "context/x.tar").read_bytes())
    layout = f"base=oci-layout://{folder}/image@{digest}"
    done = build("FROM base\nRUN true\n", "--build-context", layout)
    assert done.code == 1
    assert "unpacks to more than" in done.err


def test_many_members_are_unpacked_in_good_time(build: Build, place: Place, folder: Path) -> None:
    count = 10_000 if place.uid else 50_000
    members = [(f"d{number % 100}/f{number}", FILE, "") for number in range(count)]
    (folder / "context/x.tar.gz").write_bytes(gzip.compress(archive(*members), 1))
    done = build(
        "FROM scratch AS a\nADD x.tar.gz /\nFROM scratch\nCOPY --from=a /d7 /d7\n",
        "-o",
        str(folder / "out"),
    )
    assert done.code == 0, done.err
    assert len(os.listdir(folder / "out/d7")) == count // 100


def test_broken_archives_and_layers_are_named(build: Build, folder: Path) -> None:
    whole = gzip.compress(archive(*((f"f{number}", FILE, "") for number in range(1000))))
    (folder / "context/x.tar.gz").write_bytes(whole[: len(whole) // 2])
    failed(build("FROM scratch\nADD x.tar.gz /to/\n"), 2, "ADD x.tar.gz", "cut off")


# -- contexts ---------------------------------------------------------------------------------------------


def test_links_in_the_context_lead_nowhere_else(build: Build, folder: Path) -> None:
    for name, target in (("up", "../outside"), ("absolute", str(folder / "outside")), ("folder", "..")):
        (folder / "context" / name).symlink_to(target)
        failed(
            build(f"FROM scratch\nCOPY {name}{'/outside' if name == 'folder' else ''} /x\n"), 2, "not found"
        )
    done = build("FROM scratch\nCOPY . /x/\n", "-o", str(folder / "out"))
    assert done.code == 0
    assert os.readlink(folder / "out/x/up") == "../outside"


def test_a_dockerfile_cannot_name_what_is_outside_the_context(build: Build, base: str) -> None:
    failed(build("FROM scratch\nCOPY ../outside /x\n"), 2, "not found")
    failed(build(f"FROM {base}\nRUN --mount=source=../outside,target=/x cat /x\n"), 2, "outside")


READS = {
    "copy": "FROM scratch\nCOPY . /x/\n",
    "mount": "FROM @BASE@\nRUN --mount=target=/in cp -r /in /x; cat /in/file /in/dir/file > /seen; true\n",
}


@pytest.mark.parametrize("how", READS)
def test_a_file_that_is_swapped_for_a_link_all_the_time_leads_nowhere(
    build: Build, base: str, folder: Path, tmp_path: Path, how: str
) -> None:
    """A build may see the file, see the link, or fail: it never reads what the link leads to."""
    context, elsewhere = folder / "context", tmp_path / "elsewhere"
    for path in (elsewhere, context / "dir"):
        path.mkdir()
        (path / "file").write_text("not for a build" if path == elsewhere else "fine")
    (context / ".dockerignore").write_text(".*\n")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (context / ".new").symlink_to(elsewhere / "file")
            os.replace(context / ".new", context / "file")
            os.rename(context / "dir", context / ".dir")
            (context / "dir").symlink_to(elsewhere)
            (context / ".new").write_text("fine")
            os.replace(context / ".new", context / "file")
            (context / "dir").unlink()
            os.rename(context / ".dir", context / "dir")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(3):
            dockerfile = READS[how].replace("@BASE@", base)
            done = build(dockerfile, "--no-cache", "-o", f"type=tar,dest={folder}/out")
            if done.code == 0:
                assert b"not for a build" not in (folder / "out").read_bytes()
            else:
                assert re.search("inlay: (Dockerfile:2: )?.*(/|')(file|dir)", done.err), done.err
            assert "not for a build" not in done.err
    finally:
        stop.set()
        swapper.join()
    shutil.rmtree(elsewhere)


# -- steps ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["crun", "runc", "builtin"])
def runtime(request: pytest.FixtureRequest) -> str:
    if request.param != "builtin" and not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    name: str = request.param
    return name


@pytest.fixture
def small_store(place: Place) -> Iterator[Path]:
    """A store on a disk of 24 MiB."""
    store = place.folder / "s"
    store.mkdir()
    options = f"size=24m,uid={place.uid},gid={place.gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", store], check=True)
    yield store
    subprocess.run(["umount", store], check=True)


def test_a_step_that_fills_the_disk_is_told_so_and_leaves_room(
    build: Build, base: str, small_store: Path, runtime: str
) -> None:
    done = build(f"FROM {base}\nRUN dd if=/dev/zero of=/x bs=1M count=100\n", "--runtime", runtime)
    failed(
        done,
        2,
        "exit code: 1",
        "no room is left on the disk of the store",
        "with --root",
    )
    done = build(f"FROM {base}\nRUN echo fits > /x\n", "--runtime", runtime, "-t", "x")
    assert done.code == 0, done.err


def test_what_does_not_fit_on_the_disk_is_named(
    build: Build, base: str, small_store: Path, folder: Path
) -> None:
    (folder / "context/big").write_bytes(os.urandom(30_000_000))
    failed(build("FROM scratch\nCOPY big /\n"), 2, "no room for a blob", "free some space")
    (small_store / "ballast").write_bytes(bytes(23_000_000))
    done = build(f"FROM {base}\nRUN true\n")
    assert done.code == 1
    assert "free some space" in done.err
    (small_store / "ballast").unlink()
    done = build(f"FROM {base}\nRUN true\n")
    assert done.code == 0, done.err


def test_a_step_that_fills_a_file_system_of_its_own_is_told_so(build: Build, base: str, runtime: str) -> None:
    done = build(f"FROM {base}\nRUN dd if=/dev/zero of=/dev/shm/x bs=1M count=99\n", "--runtime", runtime)
    failed(done, 2, "--shm-size")


def test_a_step_that_forks_without_end_is_told_the_limit(build: Build, base: str, runtime: str) -> None:
    """The kernel's limit of processes for a user that no other test has stands for the one on all of a step."""
    forks = "i=0; while [ $i -lt 300 ]; do sleep 5 & i=$((i+1)); done; wait"
    done = build(f"FROM {base}\nUSER 54321\nRUN {forks}\n", "--runtime", runtime, "--ulimit", "nproc=100")
    failed(done, 3, "processes and threads at a time")


ATTEMPTS = """
attempt() { "$@" > /dev/null 2>&1 && echo "it could: $*"; }
attempt mount -t tmpfs none /mnt
attempt mount -o remount,rw /proc/sys
attempt umount /proc
attempt sh -c 'echo 1 > /proc/sys/kernel/sysrq'
attempt sh -c 'echo b > /proc/sysrq-trigger'
attempt sh -c 'echo 1 > /proc/sys/vm/drop_caches'
attempt sh -c 'echo x > /sys/kernel/uevent_helper'
attempt mkdir /sys/fs/cgroup/x
attempt test -s /proc/kcore
attempt sh -c 'mknod /disk b @MAJOR@ @MINOR@ && head -c 1 /disk'
attempt sh -c 'mknod /mem c 1 1 && head -c 1 /mem'
attempt sh -c 'mknod /kmsg c 1 11 && head -c 1 /kmsg'
attempt nsenter -t 1 -m true
attempt unshare -m true
attempt unshare -U true
attempt insmod /x.ko
attempt sethostname x
attempt hostname x
attempt sh -c '! date -s 2038-01-01 2>&1 | grep -q "not permitted"'
attempt swapoff -a
attempt cat @OUTSIDE@
attempt cat /proc/1/root@OUTSIDE@
attempt cat /proc/1/cwd/../../../../..@OUTSIDE@
attempt chroot /proc/1/root cat @OUTSIDE@
attempt kill -0 @PID@
mkdir -p /jail && attempt chroot /jail sh -c 'cd ../../../../../../..; cat .@OUTSIDE@'
attempt ls /run/docker.sock /var/run/docker.sock
for pid in $(ls /proc | grep -E '^[0-9]+$'); do [ $pid = 1 ] || grep -l 'inla[y]' /proc/$pid/cmdline; done 2> /dev/null
for fd in /proc/self/fd/*; do readlink $fd; done | grep -vE '^(pipe:|/dev/null|/proc/)'
rm -rf /jail /disk /mem /kmsg
echo all tried
"""


def test_steps_see_and_change_nothing_of_the_host(
    build: Build, base: str, runtime: str, folder: Path
) -> None:
    disk = os.stat("/").st_dev
    script = ATTEMPTS
    for name, value in (
        ("@MAJOR@", os.major(disk)),
        ("@MINOR@", os.minor(disk)),
        ("@OUTSIDE@", folder / "outside"),
        ("@PID@", os.getpid()),
    ):
        script = script.replace(name, str(value))
    (folder / "context/attempts").write_text(script)
    done = build(f"FROM {base}\nRUN --mount=target=/c sh /c/attempts\n", "--runtime", runtime)
    assert done.code == 0, done.err
    said = re.findall(r"^#\d+ \d+\.\d+ (.*)", done.err, re.M)
    assert said == ["all tried"]
