"""Builds by an ordinary user: what root builds, to the byte, or a sentence that says what is missing."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from debian import write_root
from tree_entries import Entry, tree_in_tar

from gitserver import GitServer, Repository
from processes import processes_with, wait_until
from web import Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from ordinary import User
    from web import Web

pytestmark = [pytest.mark.e2e, pytest.mark.root]

EXAMPLES = Path(__file__).parents[2] / "examples"
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}

DOCKERFILE = """FROM scratch AS base
ADD rootfs.tar /
FROM base
RUN mkdir -p /srv/a /srv/b /gone && touch /srv/a/x /srv/b/y /gone/z && chown -R 33:42 /srv && chmod 4750 /srv/a/x
RUN rm -r /gone /srv/b && mkdir /srv/b && chown 65534:65534 /srv/b && mv /srv/a/x /srv/b/x
ADD privileged.tar /opt/
RUN cp -a /opt /opt2 && chown 7 /opt2 && ln /opt/file /opt/link
COPY --chown=nobody:nogroup Dockerfile /home/
COPY --from=base /bin/busybox /usr/bin/
"""


def build(run: Callable[..., Any], folder: Path, *arguments: str) -> Any:
    return run("build", "--progress", "plain", *arguments, "-t", "made", str(folder), env=EPOCH)


def digest_of(done: Any) -> str:
    assert done.code == 0, done.err
    found = re.match(r"sha256:[0-9a-f]{64}", done.err.splitlines()[-1])
    assert found, done.err
    return found[0]


def write_privileged_tar(path: Path) -> None:
    """An archive with what only root may make elsewhere: owners, a file capability, a setuid program."""
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("file")
        member.uid, member.gid, member.mode, member.size = 100, 101, 0o755, 4
        member.pax_headers = {"SCHILY.xattr.security.capability": capability.decode("latin-1")}
        tar.addfile(member, io.BytesIO(b"file"))
        member = tarfile.TarInfo("setuid")
        member.uid, member.gid, member.mode = 1000, 8, 0o6755
        tar.addfile(member)
        member = tarfile.TarInfo("pipe")
        member.type, member.uid = tarfile.FIFOTYPE, 60000
        tar.addfile(member)


@pytest.fixture
def context(rootfs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    shutil.copy(rootfs, folder / "rootfs.tar")
    write_privileged_tar(folder / "privileged.tar")
    return folder


@pytest.mark.parametrize("runtime", ["builtin", "crun", "runc"])
def test_an_ordinary_user_builds_the_image_that_root_builds(
    inlay: Callable[..., Any], users: Callable[..., User], context: Path, tmp_path: Path, runtime: str
) -> None:
    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    user = users()
    theirs = build(user.inlay, user.give(context), "--runtime", runtime)
    roots = build(inlay, context, "--root", str(tmp_path / "store"), "--runtime", runtime)
    assert digest_of(theirs) == digest_of(roots)
    assert "WARN" not in theirs.err


SMALL = """FROM scratch
COPY --chmod=755 busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN id -u && id -G && echo made > /made && rm /made && mkdir -p /a/b && rm -r /a && mkdir /a
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A context whose build needs no owner but root."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed (Debian package busybox-static)")
    folder = tmp_path / "small"
    folder.mkdir()
    shutil.copy(busybox, folder / "busybox")
    (folder / "Dockerfile").write_text(SMALL)
    return folder


@pytest.mark.parametrize("runtime", ["builtin", "crun", "runc"])
def test_without_granted_ids_what_needs_only_root_is_built_with_a_warning(
    inlay: Callable[..., Any], users: Callable[..., User], small: Path, tmp_path: Path, runtime: str
) -> None:
    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    user = users(ids=0)
    theirs = build(user.inlay, user.give(small), "--runtime", runtime)
    roots = build(inlay, small, "--root", str(tmp_path / "store"))
    assert digest_of(theirs) == digest_of(roots)
    assert theirs.err.count("only one user id is mapped") == 1
    assert "inlay doctor" in theirs.err


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ("COPY --chown=33:42 Dockerfile /\nRUN true", "Dockerfile cannot be given to 33:42"),
        ("ADD privileged.tar /", "file cannot be given to 100:101"),
        ("USER 1000\nRUN true", "the step cannot run as 1000:0"),
        ("RUN chown 5 /bin", "chown: /bin: Invalid argument"),
        ("RUN --mount=type=secret,id=s,uid=5 true", "cannot be given to 5:0"),
        ("USER 5\nWORKDIR /x\nUSER 0\nRUN true", "x cannot be given to 5:5"),
    ],
)
def test_without_granted_ids_other_owners_are_refused_in_a_sentence(
    users: Callable[..., User], small: Path, instruction: str, said: str
) -> None:
    user = users(ids=0)
    write_privileged_tar(small / "privileged.tar")
    (small / "Dockerfile").write_text(f"{SMALL}{instruction}\n")
    done = build(user.inlay, user.give(small), "--secret", "id=s,env=HOME")
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_step_sees_itself_as_root_and_only_the_granted_ids(users: Callable[..., User], small: Path) -> None:
    user = users()
    (small / "Dockerfile").write_text(SMALL + "RUN cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '\n")
    done = build(user.inlay, user.give(small))
    assert done.code == 0, done.err
    lines = [
        line.split(" ", 2)[2].strip() for line in done.err.splitlines() if line.endswith((" 1", " 65536"))
    ]
    assert lines == ["0 4711 1", "1 1000000 65536", "0 4712 1", "1 1000000 65536"]


def test_every_file_of_the_store_is_the_users_or_of_its_granted_ids(
    users: Callable[..., User], context: Path
) -> None:
    user = users()
    assert build(user.inlay, user.give(context)).code == 0
    owners = {path.lstat().st_uid for path in user.home.rglob("*")}
    assert user_id_of(33) in owners
    assert all(owner == 4711 or owner >= user_id_of(1) for owner in owners)


def user_id_of(inside: int) -> int:
    return 1_000_000 + inside - 1


def test_trees_made_under_other_ids_are_not_used(
    inlay: Callable[..., Any], users: Callable[..., User], context: Path
) -> None:
    """Root on a user's store would see its files as belonging to ids around a million."""
    user = users()
    folder = user.give(context)
    assert build(user.inlay, folder).code == 0
    store = str(user.home / ".local/share/inlay")
    with (folder / "Dockerfile").open("a") as dockerfile:
        dockerfile.write("RUN stat -c %u:%g /srv/a /opt2\nCOPY --from=base /bin/sh /last\n")
    roots = build(inlay, folder, "--root", store)
    assert roots.code == 0, roots.err
    assert re.search(r" 33:42\n#\d+ [0-9.]+ 7:0\n", roots.err)


def test_a_folder_of_output_belongs_to_the_user(users: Callable[..., User], context: Path) -> None:
    user = users()
    out = user.home / "out"
    done = user.inlay("build", "--progress", "plain", "-o", str(out), str(user.give(context)), env=EPOCH)
    assert done.code == 0, done.err
    assert {path.lstat().st_uid for path in [out, *out.rglob("*")]} == {4711}
    assert {path.lstat().st_gid for path in [out, *out.rglob("*")]} == {4712}


def test_the_user_sees_and_deletes_what_belongs_to_the_granted_ids(
    users: Callable[..., User], context: Path
) -> None:
    user = users()
    assert build(user.inlay, user.give(context)).code == 0
    shown = user.inlay("du", "--json")
    assert shown.code == 0, shown.err
    assert sum(item["size"] for item in json.loads(shown.out)["items"]) > 1_000_000
    pruned = user.inlay("prune", "--all", "--force")
    assert pruned.code == 0, pruned.err
    left = [path for path in user.home.rglob("*") if path.lstat().st_uid != 4711]
    assert left == []


PROGRAM = """
import os, sys, threading
import inlay
from inlay.errors import ProcessFailed
release = threading.Event()
other = threading.Thread(target=release.wait)
other.start()
try:
    before = os.getuid(), os.readlink("/proc/self/ns/user")
    events = []
    epoch = {"SOURCE_DATE_EPOCH": os.environ["SOURCE_DATE_EPOCH"]}
    result = inlay.build(sys.argv[1], tags=["made"], build_args=epoch, on_event=events.append)
    assert (os.getuid(), os.readlink("/proc/self/ns/user")) == before
    print(result.digest)
    print({type(event).__name__ for event in events} >= {"Started", "Completed"})
    print({step.outcome for step in inlay.build(sys.argv[1], build_args=epoch, require_cached=True).steps})
    try:
        inlay.build(sys.argv[2], require_cached=True)
    except inlay.NotCached as error:
        print(error)
    try:
        inlay.build(sys.argv[2])
    except ProcessFailed as error:
        print(error.exit_code, error.location.first_line, error)
    class Enough(EOFError):  # which is what the end of the other process is told by
        pass
    def stop(event):
        raise Enough
    try:
        inlay.build(sys.argv[2], on_event=stop)
    except Enough:
        print("stopped")
    cancellation = inlay.Cancellation()
    def cancel_once_it_runs(event):
        if "begun" in str(event):
            threading.Timer(0, cancellation.cancel).start()
    try:
        inlay.build(sys.argv[3], on_event=cancel_once_it_runs, cancellation=cancellation)
    except inlay.BuildCancelled as error:
        print(error)
finally:
    release.set()
"""


def test_a_python_program_builds_in_another_process(
    inlay: Callable[..., Any], users: Callable[..., User], context: Path, small: Path, tmp_path: Path
) -> None:
    (small / "Dockerfile").write_text(SMALL + "RUN exit 7\n")
    seconds = f"4714.{os.getpid()}"
    endless = shutil.copytree(small, tmp_path / "endless")
    (endless / "Dockerfile").write_text(f"{SMALL}RUN echo begun; sleep {seconds}\n")
    user = users()
    folders = [str(user.give(folder)) for folder in (context, small, endless)]
    done = user.run(sys.executable, "-c", PROGRAM, *folders, env=EPOCH)
    assert done.code == 0, done.err
    digest, events, outcomes, not_cached, failed, stopped, cancelled = done.out.splitlines()
    assert digest == digest_of(build(inlay, context, "--root", str(tmp_path / "store")))
    assert (events, outcomes, stopped) == ("True", "{'cached'}", "stopped")
    assert cancelled == "the build was cancelled"
    assert not processes_with(f"sleep\0{seconds}")
    assert not_cached == "4 steps are not in the cache"
    assert failed.startswith("7 5 Dockerfile:5: ")


def test_the_other_process_ends_with_a_program_that_is_killed(
    users: Callable[..., User], small: Path
) -> None:
    seconds = f"4713.{os.getpid()}"
    (small / "Dockerfile").write_text(f"{SMALL}RUN sleep {seconds}\n")
    user = users()
    program = (sys.executable, "-c", f"import inlay; inlay.build({str(user.give(small))!r})")
    process = subprocess.Popen(user.command(*program), env=user.environment, cwd="/")
    wait_until(lambda: processes_with(f"sleep\0{seconds}"))
    process.kill()
    process.wait(10)
    wait_until(lambda: not processes_with(f"sleep\0{seconds}"))
    assert processes_with(str(user.home)) == []


DIFFERS_EACH_TIME = ("var/log/", "var/cache/ldconfig/", "var/cache/apt/", "var/lib/dpkg/", "var/lib/apt/")
"""What holds the time of a step, or its process's number."""


def test_a_user_installs_packages_and_adds_users_as_root_does(
    inlay: Callable[..., Any], users: Callable[..., User], tmp_path: Path
) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs Debian")
    context = Path(shutil.copytree(EXAMPLES / "debian", tmp_path / "debian"))
    write_root(context / "rootfs.tar")
    user = users()
    made = {}
    for run, out in ((user.inlay, user.home / "out.tar"), (inlay, tmp_path / "out.tar")):
        folder, root = (
            (user.give(context), user.home / "s") if run == user.inlay else (context, tmp_path / "s")
        )
        done = build(run, folder, "--root", str(root), "-o", f"type=tar,dest={out}")
        assert done.code == 0, done.err
        made[run] = tree_in_tar(out)
    theirs, roots = made[user.inlay], made[inlay]
    assert theirs.keys() == roots.keys()
    differing = {name for name in roots if without_time(theirs[name]) != without_time(roots[name])}
    assert {name for name in differing if not name.startswith(DIFFERS_EACH_TIME)} == set()
    assert theirs["srv/app"].owner == (1000, 1000)
    assert theirs["srv/app"].mode == 0o2750
    assert theirs["usr/local/bin/hello"].mode & 0o4000
    assert theirs["etc/shadow"].owner == (0, 42)


def without_time(entry: Entry) -> Entry:
    return entry._replace(mtime=0)


IN_CONTEXT = "of the build context: permission denied; make it readable, or exclude it by .dockerignore"


@pytest.mark.parametrize(
    ("closed", "flags", "said"),
    [
        ("sub/file", "", f"Dockerfile:2: [1/1] COPY . /x: cannot read /sub/file {IN_CONTEXT}"),
        ("sub", "", f"Dockerfile:2: [1/1] COPY . /x: cannot read /sub {IN_CONTEXT}"),
        ("Dockerfile", "", "cannot read @/Dockerfile: permission denied; make it readable"),
        (".dockerignore", "", "cannot read @/.dockerignore: permission denied; make it readable"),
        ("", "-f @/None", "cannot read @/None: no such file or directory; name the Dockerfile with -f"),
        ("sub/file", "--secret id=s,src=@/sub/file", "secret s: cannot read @/sub/file: permission denied"),
        ("", "--secret id=s,src=@/none", "secret s: cannot read @/none: no such file or directory"),
        ("sub/file", "--ssh k=@/sub/file", "ssh k: cannot use @/sub/file: permission denied"),
        ("", "--root /no/one", "cannot keep state in /no/one: permission denied; choose another folder with --root"),
    ],
)  # fmt: skip
def test_what_a_user_may_not_read_is_named(
    users: Callable[..., User], tmp_path: Path, closed: str, flags: str, said: str
) -> None:
    (tmp_path / "c/sub").mkdir(parents=True)
    (tmp_path / "c/Dockerfile").write_text("FROM scratch\nCOPY . /x\n")
    (tmp_path / "c/.dockerignore").write_text("none\n")
    (tmp_path / "c/sub/file").write_text("something\n")
    user = users()
    context = user.give(tmp_path / "c")
    if closed:
        os.chown(context / closed, 0, 0)
        os.chmod(context / closed, 0)
    done = user.inlay("build", *flags.replace("@", str(context)).split(), str(context))
    assert done.code in (1, 2)
    assert done.err.splitlines()[-1] == f"inlay: {said.replace('@', str(context))}"


def test_device_nodes_of_archives_are_left_out_with_a_warning(
    users: Callable[..., User], small: Path
) -> None:
    user = users()
    with tarfile.open(small / "nodes.tar", "w") as tar:
        for name, kind in (
            ("console", tarfile.CHRTYPE),
            ("disk", tarfile.BLKTYPE),
            ("pipe", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.devmajor, member.devminor = kind, 5, 1
            tar.addfile(member)
    (small / "Dockerfile").write_text(SMALL + "ADD nodes.tar /dev2/\nRUN ls /dev2\n")
    done = build(user.inlay, user.give(small))
    assert done.code == 0, done.err
    assert "2 device nodes are left out, such as /dev2/console" in done.err
    assert re.search(r"#\d+ [0-9.]+ pipe\n#\d+ DONE", done.err)


def test_an_ordinary_user_looks_at_contexts_of_the_web(users: Callable[..., User], web: Web) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member, text = tarfile.TarInfo("Dockerfile"), b"FROM scratch AS named\nCOPY Dockerfile /copied\n"
        member.size, member.uid = len(text), 33
        tar.addfile(member, io.BytesIO(text))
    web.pages["/context"] = Page(packed.getvalue())
    user = users()
    for command, said in ((("build", "--call", "targets"), "named"), (("debug", "llb"), "/copied")):
        done = user.inlay(*command, "--root", str(user.home / said[1:]), f"{web.url}/context")
        assert done.code == 0, done.err
        assert said in done.out


def test_secrets_agents_caches_and_repositories_reach_a_users_build(
    users: Callable[..., User], context: Path, tmp_path: Path
) -> None:
    for name in ("git", "ssh-agent", "ssh-keygen"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    user = users()
    (tmp_path / "served").mkdir()
    server = GitServer(tmp_path / "served")
    try:
        Repository(server.folder, "repo").commit(f="one\n")
        (context / "Dockerfile").write_text(
            "FROM scratch\nADD rootfs.tar /\n"
            f"ADD {server.url}/repo.git /checkout\n"
            "RUN cat /checkout/f && test $(stat -c %u:%g /checkout/f) = 0:0\n"
            "RUN --mount=type=secret,id=s,uid=33,gid=42,mode=0440 stat -c %u:%g:%a /run/secrets/s\n"
            "RUN --mount=type=ssh,uid=33,gid=42 test -S $SSH_AUTH_SOCK && stat -c %u:%g:%a $SSH_AUTH_SOCK\n"
            "RUN --mount=type=cache,target=/c,uid=33,gid=42 touch /c/f && stat -c %u:%g /c\n"
            "RUN --network=none ls /sys/class/net\n"
        )
        script = (
            'ssh-keygen -q -t ed25519 -N "" -f key && eval "$(ssh-agent)" && ssh-add -q key\n'
            'trap "kill $SSH_AGENT_PID" 0\n'
            '"$@" --ssh default && "$@" --ssh default=key --no-cache'
        )
        command = [sys.executable, "-m", "inlay", "build", "--progress", "plain", "--secret", "id=s,env=HOME"]
        folder = user.give(context)
        done = user.run("sh", "-c", f"cd && {script}", "sh", *command, str(folder))
    finally:
        server.close()
    assert done.code == 0, done.err
    printed = re.findall(r"^#\d+ [0-9.]+ ([0-9a-z:]+)$", done.err, re.MULTILINE)
    assert printed == ["one", "33:42:440", "33:42:600", "33:42", "lo"] * 2
