"""Root in a container that gives it no more than docker does, and users whom the kernel refuses a namespace."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from inlay.executor import defaults
from ordinary import GID, UID
from running import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry
    from ordinary import User

pytestmark = [pytest.mark.e2e, pytest.mark.root]

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
DOCKERFILE = """FROM scratch
ADD rootfs.tar /
RUN mkdir -p /srv/a && touch /srv/a/x && chown 33:42 /srv/a/x && rm -r /tmp && mkdir /tmp
"""
DOCKERS = ",".join(["-all", *(f"+{name.lower()}" for name in defaults.DEFAULT_CAPABILITIES)])
AS_IN_DOCKER = ["setpriv", "--inh-caps=-all", f"--bounding-set={DOCKERS}"]
HIDE_PROC = """
set -e
while read -r _ _ _ _ where rest; do
    case "$rest" in *" - proc "*) [ "$where" = /proc ] || umount -l "$where";; esac  # others' whole ones
done < /proc/self/mountinfo
for path in /proc/kcore /proc/keys /proc/timer_list; do [ ! -e $path ] || mount --bind /dev/null $path; done
for path in /proc/acpi /proc/scsi /sys/firmware; do [ ! -d $path ] || mount -t tmpfs -o ro tmpfs $path; done
for path in /proc/sys /proc/fs /proc/irq; do mount --bind $path $path; mount -o remount,ro,bind $path; done
exec "$@"
"""


@pytest.fixture
def context(rootfs: Path, tmp_path: Path) -> Path:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    shutil.copy(rootfs, folder / "rootfs.tar")
    return folder


def run(*command: str) -> Outcome:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **EPOCH})
    return Outcome(done.returncode, done.stdout, done.stderr)


def digest_of(done: Any) -> str:
    assert done.code == 0, done.err
    found = re.match(r"sha256:[0-9a-f]{64}", done.err.splitlines()[-1])
    assert found, done.err
    return found[0]


INLAY = [sys.executable, "-m", "inlay"]
BUILD = [*INLAY, "build", "--progress", "plain"]


@pytest.mark.parametrize(
    ("runtime", "proc"),
    [
        ("builtin", "whole"), ("crun", "whole"), ("runc", "whole"),
        ("builtin", "hidden in part"), ("crun", "hidden in part"), ("", "hidden in part"),
    ],
)  # fmt: skip
def test_root_with_dockers_capabilities_builds_in_a_namespace_of_the_same_ids(
    inlay: Callable[..., Any], context: Path, tmp_path: Path, runtime: str, proc: str
) -> None:
    if runtime not in ("", "builtin") and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    around = [] if proc == "whole" else ["unshare", "--mount", "sh", "-c", HIDE_PROC, "sh"]
    options = ["--root", str(tmp_path / "few"), "--runtime", runtime, "-t", "x", str(context)]
    few = run(*around, *AS_IN_DOCKER, *BUILD, *options)
    all_of_them = run(*BUILD, "--root", str(tmp_path / "all"), "-t", "x", str(context))
    assert digest_of(few) == digest_of(all_of_them)
    assert "WARN" not in few.err


@pytest.mark.parametrize("who", ["root", "root as in docker", "user"])
def test_a_store_on_overlayfs_as_in_most_containers_works_by_copies(
    context: Path, users: Callable[..., User], tmp_path: Path, who: str
) -> None:
    user = users()
    store = (user.home if who == "user" else tmp_path) / "over"
    for folder in (store, *(tmp_path / name for name in ("lower", "upper", "work"))):
        folder.mkdir()
    dirs = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "-o", dirs, "overlay", store], check=True)
    try:
        os.chown(store, *((UID, GID) if who == "user" else (0, 0)))
        options = ["--root", str(store), "-t", "x"]
        if who == "user":
            done = user.inlay(*BUILD[len(INLAY) :], *options, str(user.give(context)), env=EPOCH)
        else:
            done = run(*(AS_IN_DOCKER if "docker" in who else ()), *BUILD, *options, str(context))
    finally:
        subprocess.run(["umount", "-l", store], check=True)
    all_of_them = run(*BUILD, "--root", str(tmp_path / "all"), "-t", "x", str(context))
    assert digest_of(done) == digest_of(all_of_them)
    assert "every step copies its whole file system, because overlayfs cannot write to" in done.err


def test_where_proc_is_hidden_in_part_steps_do_not_see_what_is_hidden_or_what_others_have(
    context: Path, tmp_path: Path
) -> None:
    script = (
        "mount | grep -c ' /proc/sys ' && ! cat /proc/1/environ 2>/dev/null && ls /proc/keys && "
        '[ -z "$(cat /proc/keys)" ] && ! ls /proc/1/root/ 2>/dev/null && ! echo 1 > /proc/sys/vm/drop_caches'
    )
    with (context / "Dockerfile").open("a") as dockerfile:
        dockerfile.write(f"RUN {script}\n")
    for runtime in ("builtin", "crun"):
        around = ["unshare", "--mount", "sh", "-c", HIDE_PROC, "sh", *AS_IN_DOCKER]
        done = run(
            *around, *BUILD, "--root", str(tmp_path / "s"), "--runtime", runtime, "--no-cache", str(context)
        )
        assert done.code == 0, done.err


def test_doctor_tells_of_a_proc_that_is_hidden_in_part(context: Path, tmp_path: Path) -> None:
    around = ["unshare", "--mount", "sh", "-c", HIDE_PROC, "sh", *AS_IN_DOCKER]
    done = run(*around, *INLAY, "doctor", "--json", "--root", str(tmp_path / "s"))
    assert done.code == 0, done.err
    findings = {each["name"]: each for each in json.loads(done.out)["findings"]}
    assert findings["privileges"]["told"] == "root, in a user namespace"
    assert findings["ids"]["state"] == "ok"
    assert findings["processes"]["state"] == "limited"
    assert "systempaths=unconfined" in findings["processes"]["command"]
    assert [findings[name]["state"] for name in ("builtin", "crun", "runc")] == ["ok", "ok", "limited"]


def test_runc_says_that_it_needs_a_proc_of_its_own(context: Path, tmp_path: Path) -> None:
    if not shutil.which("runc"):
        pytest.skip("runc is not installed")
    around = ["unshare", "--mount", "sh", "-c", HIDE_PROC, "sh", *AS_IN_DOCKER]
    done = run(*around, *BUILD, "--root", str(tmp_path / "s"), "--runtime", "runc", str(context))
    assert done.code == 1
    assert "runc needs a /proc of its own" in done.err
    assert "RuntimeError" not in done.err


REFUSE = """
import os
import sys
from inlay.system import rootless
rootless.enter()
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
os.execvp(sys.argv[1], sys.argv[1:])
"""
REFUSED_ROOT = [*AS_IN_DOCKER, sys.executable, "-c", REFUSE, *AS_IN_DOCKER]
"""Root that has docker's capabilities and may make no user namespace (inside one that allows none)."""


def test_root_without_any_namespace_copies_files_and_runs_no_steps(context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text(
        "FROM scratch AS base\nADD rootfs.tar /\nFROM base\nCOPY --from=base --chown=5:6 /etc /srv\n"
    )
    options = ["-t", "x", str(context)]
    few = run(*REFUSED_ROOT, *BUILD, "--root", str(tmp_path / "few"), *options)
    all_of_them = run(*BUILD, "--root", str(tmp_path / "all"), *options)
    assert digest_of(few) == digest_of(all_of_them)
    assert "every step copies its whole file system" in few.err

    (context / "Dockerfile").write_text(DOCKERFILE)
    done = run(*REFUSED_ROOT, *BUILD, "--root", str(tmp_path / "few"), *options)
    assert done.code == 1
    assert "RUN steps cannot be run: it takes capabilities that root does not have here" in done.err
    assert "Traceback" not in done.err

    doctor = run(*REFUSED_ROOT, *INLAY, "doctor", "--root", str(tmp_path / "few"))
    assert doctor.code == 1
    assert "→ sysctl -w user.max_user_namespaces=" in doctor.out
    assert "by copies" in doctor.out


REFUSED_USER = (
    "unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c",
    'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all --inh-caps=-all "$@"', "sh",
)  # fmt: skip


def test_a_user_without_any_namespace_builds_what_is_cached_and_else_is_told_what_to_do(
    inlay: Callable[..., Any],
    users: Callable[..., User],
    context: Path,
    docker_registry: RunningRegistry,
    tmp_path: Path,
) -> None:
    user = users()
    reference = f"{docker_registry.host}/few/privileges:1"
    theirs = str(user.give(context))
    made = run(
        *BUILD, "--root", str(tmp_path / "s"), "-t", reference, "--push", "--cache-to", "type=inline", theirs
    )
    cached = user.run(
        *REFUSED_USER, *BUILD, "-t", reference, "--push", "--cache-to", "type=inline",
        "--cache-from", reference, "--require-cached", theirs, env=EPOCH,
    )  # fmt: skip
    assert digest_of(cached) == digest_of(made)

    done = user.run(*REFUSED_USER, *BUILD, "-t", "x", "--no-cache", theirs, env=EPOCH)
    assert done.code == 1
    assert "this machine refuses one: run `inlay doctor` to learn why" in done.err
    assert "Traceback" not in done.err

    doctor = user.run(*REFUSED_USER, *INLAY, "doctor")
    assert doctor.code == 1
    assert "user 4711, and a user namespace is refused" in doctor.out
    assert "→ sysctl -w user.max_user_namespaces=" in doctor.out


def test_a_user_without_any_namespace_packs_files_as_root_does(
    users: Callable[..., User], tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    (folder / "d").mkdir(parents=True)
    (folder / "d/e").write_text("e")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY d /x/y/\nWORKDIR /w/v\nCOPY --chown=3:4 d/e /q/\n")
    user = users()
    theirs = user.run(*REFUSED_USER, *BUILD, "-t", "x", str(user.give(folder)), env=EPOCH)
    roots = run(*BUILD, "--root", str(tmp_path / "s"), "-t", "x", str(folder))
    assert digest_of(theirs) == digest_of(roots)


CHROOT = """
set -e
for path in /*; do
    if [ -L "$path" ]; then cp -P "$path" "$1/"
    elif [ -d "$path" ]; then mkdir "$1$path"; mount --rbind "$path" "$1$path"; fi
done
cd "$1"
shift
exec chroot . "$@"
"""


@pytest.mark.parametrize("runtime", ["crun", "builtin"])
def test_a_chroot_that_is_no_mount_point_is_told_as_that(context: Path, tmp_path: Path, runtime: str) -> None:
    if runtime != "builtin" and shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    root = tmp_path / "root"
    root.mkdir()
    build = [*BUILD, "--runtime", runtime, "--root", str(tmp_path / "s"), str(context)]
    done = run("unshare", "-m", "sh", "-c", CHROOT, "sh", str(root), *build)
    assert done.code == 1
    assert done.err.splitlines()[-1].endswith(
        "this is a chroot whose folder is no mount point; bind-mount the folder on itself, then chroot into it"
    )
