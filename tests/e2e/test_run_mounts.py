"""RUN's mounts and surroundings, for real: what a step sees, and that none of it stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from images import BuiltImage, files_with

from processes import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ordinary import User
    from running import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SECRET = "very-hush-hush-4711"


class Builder(Protocol):
    """Builds the text of a Dockerfile, of which @BASE@ is the base image, with one runtime."""

    context: Path
    store: Path
    image: Path
    base: str
    runtime: str

    def __call__(self, dockerfile: str, *flags: str, **env: str) -> Outcome: ...


@pytest.fixture(params=["crun", "runc", "builtin"])
def build(request: pytest.FixtureRequest, inlay: Callable[..., Any], base: str, tmp_path: Path) -> Builder:
    runtime = request.param
    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")

    class Built:
        context, store, image = tmp_path / "context", tmp_path / "s", tmp_path / "image"

        def __init__(self) -> None:
            self.base, self.runtime = base, runtime

        def __call__(self, dockerfile: str, *flags: str, **env: str) -> Outcome:
            (self.context / "Dockerfile").write_text(
                f"FROM {base} AS base\n{dockerfile}".replace("@BASE@", base)
            )
            command = ("build", "--progress", "plain", "--root", str(self.store), "--runtime", runtime)
            out = ("-o", f"type=oci,tar=false,dest={self.image}")
            done: Outcome = inlay(*command, *out, *flags, str(self.context), env=env)
            return done

    Built.context.mkdir()
    return Built()


def succeeded(done: Outcome) -> str:
    assert done.code == 0, done.err
    return done.err


def start(build: Builder, dockerfile: str, *flags: str) -> subprocess.Popen[bytes]:
    """Start a build and do not wait for it."""
    (build.context / "Dockerfile").write_text(f"FROM {build.base}\n{dockerfile}")
    command = [sys.executable, "-m", "inlay", "build", "-q", "--root", str(build.store)]
    return subprocess.Popen(
        [*command, "--runtime", build.runtime, *flags, str(build.context)], stderr=subprocess.DEVNULL
    )


def pids_of(program: str, argument: str) -> list[int]:
    return [
        pid
        for pid in processes_with(f"{program}\0{argument}\0")
        if Path(f"/proc/{pid}/comm").read_text().strip() in (program, "busybox")
    ]


# -- mounts -----------------------------------------------------------------------------------------------


def test_bind_mounts_show_contexts_stages_and_images(build: Builder) -> None:
    (build.context / "dir").mkdir()
    (build.context / "dir/f").write_text("from the context")
    succeeded(
        build(
            "RUN mkdir /o && echo from the stage > /o/f && ln -s f /o/l\n"
            "FROM base\n"
            "RUN --mount=type=bind,target=/in test \"$(cat /in/dir/f)\" = 'from the context'\n"
            "RUN --mount=source=dir/f,target=/in test \"$(cat /in)\" = 'from the context'\n"
            "RUN --mount=from=base,source=/o/l,target=/in test \"$(cat /in)\" = 'from the stage'\n"
            "RUN --mount=from=@BASE@,source=/etc,target=/in grep root /in/passwd\n"
            "RUN --mount=target=/in ! touch /in/new 2> /err && grep 'Read-only' /err\n"
            "RUN test ! -e /in\n"
        )
    )


def test_what_is_written_to_a_bind_mount_is_dropped(build: Builder) -> None:
    (build.context / "f").write_text("as it was")
    succeeded(
        build(
            "RUN --mount=target=/in,rw echo changed > /in/f && touch /in/new && cat /in/f > /seen\n"
            "RUN --mount=target=/in test \"$(cat /in/f)\" = 'as it was' && test ! -e /in/new\n"
            'RUN test "$(cat /seen)" = changed && test ! -e /in\n'
        )
    )
    assert (build.context / "f").read_text() == "as it was"
    assert not (build.context / "new").exists()


def test_cache_mounts_outlive_builds_and_are_in_no_layer(build: Builder) -> None:
    count = "echo x >> /cache/deep/count && wc -l < /cache/deep/count > /counted"
    dockerfile = f"RUN --mount=type=cache,target=/cache/deep {count} && cat /counted\nRUN test ! -e /cache\n"
    succeeded(build(dockerfile))
    again = succeeded(build(dockerfile, "--no-cache"))
    assert " 2\n" in again
    assert not any(name.startswith("cache") for name in BuiltImage.read(build.image).names(1))


def test_cache_mounts_have_the_owner_and_mode_that_was_asked_for(build: Builder) -> None:
    out = succeeded(
        build(
            "RUN --mount=type=cache,target=/c,uid=5,gid=6,mode=0700 stat -c '%u:%g %a' /c\n"
            "RUN --mount=type=cache,target=/c,id=other,ro sh -c '! touch /c/x'\n"
        )
    )
    assert " 5:6 700\n" in out


def test_tmpfs_mounts_have_their_size_and_leave_nothing(build: Builder) -> None:
    out = succeeded(
        build(
            "RUN --mount=type=tmpfs,target=/scratch/pad,size=1m "
            "head -c 2m /dev/zero > /scratch/pad/x || stat -c 'took %s of mode %a' /scratch/pad/x\n"
            "RUN test ! -e /scratch\n"
        )
    )
    assert " took 1048576 of mode 644\n" in out


def test_heredocs_are_scripts_and_standard_input(build: Builder) -> None:
    out = succeeded(
        build(
            "RUN <<EOF\nset -e\necho one\necho two > /two\nEOF\n"
            "RUN <<EOF cat - /two | sort -r > /sorted\nzebra\nEOF\n"
            "RUN <<EOF\n#!/bin/cat\nthe script itself\nEOF\n"
            'RUN test "$(cat /sorted)" = "$(printf \'zebra\\ntwo\')"\n'
        )
    )
    assert " one\n" in out
    assert " the script itself\n" in out


# -- secrets ----------------------------------------------------------------------------------------------


def test_secrets_are_files_and_variables(build: Builder, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    hidden = "very-hush-hush-$((4710 + 1))"  # the secret itself must not be in the Dockerfile
    done = build(
        f'RUN --mount=type=secret,id=file test "$(cat /run/secrets/file)" = "{hidden}"\n'
        f'RUN --mount=type=secret,id=var test "$(cat /run/secrets/var)" = "{hidden}"\n'
        f'RUN --mount=type=secret,id=var,env=TOKEN test "$TOKEN" = "{hidden}" && test ! -e /run\n'
        "RUN --mount=type=secret,id=file,target=/a/b,uid=3,gid=4,mode=0440 stat -c 'is %u:%g %a' /a/b\n"
        "RUN --mount=type=secret,id=file sh -c '! echo x > /run/secrets/file'\n"
        "RUN --mount=type=secret,id=none ls /run; test ! -e /run/secrets\n"
        "RUN test ! -e /run && test ! -e /a\n",
        *("--secret", f"id=file,src={tmp_path}/secret.txt", "--secret", "id=var,env=TOKEN_VALUE"),
        TOKEN_VALUE=SECRET,
    )
    assert " is 3:4 440\n" in succeeded(done)
    assert not {"run", "a"} & BuiltImage.read(build.image).names(1)


@pytest.mark.parametrize("option", ["required", "required=true,env=TOKEN"])
def test_a_missing_secret_names_itself_and_what_to_do(build: Builder, option: str) -> None:
    done = build(f"RUN --mount=type=secret,id=token,{option} cat /run/secrets/token\n")
    assert done.code == 1
    assert "Dockerfile:2" in done.err
    assert "--secret id=token" in done.err


def test_a_secret_that_cannot_be_read_stops_the_build_before_it_begins(build: Builder) -> None:
    done = build("RUN true\n", "--secret", "id=token,src=/no/such/file")
    assert done.code == 1
    assert "secret token: cannot read /no/such/file" in done.err
    assert "RUN true" not in done.err


def test_secrets_that_cannot_be_given_say_why(build: Builder, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"a\0b")
    (tmp_path / "large").write_bytes(bytes(600_000))
    flag = ("--secret", f"id=x,src={tmp_path}/binary")
    done = build("RUN --mount=type=secret,id=x,env=X true\n", *flag)
    assert done.code == 1
    assert "Dockerfile:2" in done.err
    assert "secret x: X cannot hold its zero bytes; mount it as a file" in done.err
    assert build("RUN --mount=type=secret,id=x test $(wc -c < /run/secrets/x) = 3\n", *flag).code == 0
    done = build("RUN true\n", "--secret", f"id=x,src={tmp_path}/large")
    assert (done.code, "RUN true" in done.err) == (1, False)
    assert "secret x: larger than the 512000 bytes" in done.err


# -- ssh --------------------------------------------------------------------------------------------------


class Agent:
    """A running ssh-agent with one key."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "agent.sock"
        self.key = folder / "key"
        self.other_key = folder / "other"
        for key in (self.key, self.other_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        self.process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", self.socket], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self.socket.exists)
        subprocess.run(
            ["ssh-add", "-q", self.key], env={**os.environ, "SSH_AUTH_SOCK": str(self.socket)}, check=True
        )

    @staticmethod
    def public(key: Path) -> str:
        return Path(f"{key}.pub").read_text().split()[1]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    if not shutil.which("ssh-agent"):
        pytest.skip("openssh-client is not installed")
    running = Agent(tmp_path)
    yield running
    running.process.terminate()
    running.process.wait(10)


def put_program(program: str, root: Path) -> None:
    """Put a program of this machine, with the libraries that it needs, below `root`."""
    path = shutil.which(program)
    assert path is not None
    linked = subprocess.check_output(["ldd", path], text=True)
    for file in [path, *(word for word in linked.split() if word.startswith("/"))]:
        target = root / file.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


SSH = """COPY root /
RUN --mount=type=ssh ssh-add -L && test "$SSH_AUTH_SOCK" = /run/buildkit/ssh_agent.0
RUN --mount=type=ssh,id=keys,target=/a/sock,uid=5,gid=6,mode=0660 ssh-add -L && stat -c 'is %u:%g %a' $SSH_AUTH_SOCK
RUN --mount=type=ssh,id=none test ! -e /run/buildkit
RUN test -z "$SSH_AUTH_SOCK" && test ! -e /run && test ! -e /a
"""


def test_ssh_agents_and_keys_are_reached(build: Builder, agent: Agent) -> None:
    put_program("ssh-add", build.context / "root")
    out = succeeded(
        build(SSH, "--ssh", "default", "--ssh", f"keys={agent.other_key}", SSH_AUTH_SOCK=str(agent.socket))
    )
    assert f" ssh-ed25519 {agent.public(agent.key)}" in out
    assert f" ssh-ed25519 {agent.public(agent.other_key)}" in out
    assert " is 5:6 660\n" in out
    private = agent.other_key.read_bytes().splitlines()[4]
    assert files_with(build.store, private) == []


def test_ssh_agents_can_be_given_by_their_socket(build: Builder, agent: Agent) -> None:
    put_program("ssh-add", build.context / "root")
    dockerfile = "COPY root /\nRUN --mount=type=ssh,id=x ssh-add -L\n"
    out = succeeded(build(dockerfile, "--ssh", f"x={agent.socket}"))
    assert f" ssh-ed25519 {agent.public(agent.key)}" in out


def test_a_step_cannot_change_the_agent(build: Builder, agent: Agent) -> None:
    put_program("ssh-add", build.context / "root")
    dockerfile = (
        "COPY root /\nRUN --mount=type=ssh ! ssh-add -D && ! ssh-add -x < /dev/null && ssh-add -l > /listed\n"
        "RUN --mount=type=ssh ssh-add -L\n"
    )
    out = succeeded(build(dockerfile, "--ssh", f"default={agent.socket}"))
    assert out.count(f" ssh-ed25519 {agent.public(agent.key)}") == 1


def test_a_raw_socket_is_the_step_s_own(build: Builder, agent: Agent) -> None:
    put_program("ssh-add", build.context / "root")
    dockerfile = "COPY root /\nRUN --mount=type=ssh ssh-add -D\n"
    keys = build(dockerfile, "--ssh", f"default={agent.key},raw=true")
    assert "raw=true goes with a socket only" in keys.err
    succeeded(build(dockerfile, "--ssh", f"default={agent.socket},raw=true"))
    listed = subprocess.run(
        ["ssh-add", "-L"], env={"SSH_AUTH_SOCK": str(agent.socket)}, capture_output=True, check=False
    )
    assert listed.stdout == b"The agent has no identities.\n"


def test_an_agent_for_keys_ends_with_a_killed_build(build: Builder, agent: Agent) -> None:
    seconds = str(700_000 + os.getpid())
    process = start(build, f"RUN --mount=type=ssh sleep {seconds}\n", "--ssh", f"default={agent.key}")
    wait_until(lambda: pids_of("sleep", seconds))
    ours = f"/proc/{process.pid}/fd/"
    assert len(processes_with(ours)) == 1
    process.kill()
    process.wait(10)
    wait_until(lambda: not processes_with(ours) and not pids_of("sleep", seconds))


def test_a_missing_ssh_agent_names_itself_and_what_to_do(build: Builder) -> None:
    done = build("RUN --mount=type=ssh,required true\n")
    assert done.code == 1
    assert "Dockerfile:2" in done.err
    assert "pass --ssh default" in done.err
    for flag, reason in (("default", "SSH_AUTH_SOCK is not set"), ("x=/no/such", "cannot use /no/such")):
        without = build("RUN true\n", "--ssh", flag, SSH_AUTH_SOCK="")
        assert without.code == 1
        assert reason in without.err
        assert "RUN true" not in without.err  # known before anything runs


def test_a_key_with_a_passphrase_is_refused(build: Builder, tmp_path: Path) -> None:
    key = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "word", "-f", key], check=True)
    done = build("RUN --mount=type=ssh true\n", "--ssh", f"default={key}")
    assert done.code == 1
    assert "ssh default: cannot use the key" in done.err


# -- surroundings -----------------------------------------------------------------------------------------


def test_surroundings_are_those_of_the_flags(build: Builder) -> None:
    out = succeeded(
        build(
            "RUN grep -E '^10.9.8.7\\s+db$' /etc/hosts && grep -E '^fe80::7\\s+six$' /etc/hosts\n"
            "RUN echo $(ulimit -Sn) $(ulimit -Hn) files; echo $(df -k /dev/shm | tail -1) shared\n"
            "RUN --network=none ls /sys/class/net | wc -l\n"
            "RUN --network=default ls /sys/class/net > /net\n",
            *("--add-host", "db:10.9.8.7", "--add-host", "six=[fe80::7]"),
            *("--ulimit", "nofile=100:200", "--shm-size", "3m"),
        )
    )
    assert " 100 200 files\n" in out
    assert " 3072 0 3072 " in out
    assert " 1\n" in out


def test_the_host_s_network_needs_to_be_allowed(build: Builder) -> None:
    dockerfile = "RUN true\nRUN --network=host ls /sys/class/net\n"
    refused = build(dockerfile)
    assert refused.code == 1
    assert "Dockerfile:3" in refused.err
    assert "pass --allow network.host" in refused.err
    assert "RUN true\n" not in refused.err.partition("Dockerfile:3")[0]  # nothing ran
    succeeded(build(dockerfile, "--allow", "network.host"))
    succeeded(build("RUN true\n", "--network", "host"))  # says so itself, as with docker


def test_privileges_need_to_be_allowed(build: Builder) -> None:
    dockerfile = "RUN --security=insecure mkdir /m && mount -t tmpfs none /m && echo mounted && umount /m\n"
    refused = build(dockerfile)
    assert refused.code == 1
    assert "Dockerfile:2" in refused.err
    assert "pass --allow security.insecure" in refused.err
    assert " mounted\n" in succeeded(build(dockerfile, "--allow", "security.insecure"))
    sandboxed = build("RUN mkdir /m && mount -t tmpfs none /m\n", "--allow", "security.insecure")
    assert sandboxed.code == 1


def test_an_unknown_entitlement_is_a_usage_error(inlay: Callable[..., Any], tmp_path: Path) -> None:
    done = inlay("build", "--allow", "everything", str(tmp_path))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--allow everything: must be network.host or security.insecure" in done.err


def test_what_steps_are_given_is_in_no_layer(build: Builder, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    succeeded(
        build(
            "RUN --mount=type=secret,id=s --mount=type=cache,target=/var/cache/x --mount=type=tmpfs,target=/t/u "
            "--mount=target=/mnt/deep/in cat /etc/hosts /etc/resolv.conf && touch /made\n",
            *("--secret", f"id=s,src={tmp_path}/secret.txt", "--shm-size", "1m"),
        )
    )
    assert BuiltImage.read(build.image).names(1) - {"dev", "proc", "sys"} == {"made"}


def test_files_of_the_image_below_mounts_are_left_alone(build: Builder) -> None:
    succeeded(
        build(
            "COPY Dockerfile /etc/hosts\nCOPY Dockerfile /etc/resolv.conf\n"
            "RUN grep localhost /etc/hosts && rm /etc/passwd\n"
            "COPY Dockerfile /etc/passwd\n"
        )
    )
    image = BuiltImage.read(build.image)
    assert {"etc/hosts", "etc/resolv.conf"} <= image.names(1)
    assert not {"etc/.wh.hosts", "etc/.wh.resolv.conf"} & image.names(1)
    assert not {"etc/hosts", "etc/resolv.conf"} & image.names(3)


def test_proxies_are_seen_by_steps_and_in_no_image(build: Builder) -> None:
    proxy = "http://user:word@proxy.example:3128"
    flags = [f"--build-arg={name}={proxy}/{name}" for name in ("HTTP_PROXY", "https_proxy", "FTP_PROXY")]
    out = succeeded(
        build(
            'RUN test -n "$http_proxy" && test "$http_proxy" = "$HTTP_PROXY" && echo $NO_PROXY only here\n'
            'RUN test -n "$HTTPS_PROXY" && test -n "$ftp_proxy"\n',
            *flags,
            *("--build-arg", "NO_PROXY=localhost", "--cache-to", "type=inline"),
        )
    )
    assert " localhost only here\n" in out
    assert files_with(build.image, b"proxy.example") == []
    assert files_with(build.store, b"proxy.example") == []
    again = build(
        'RUN test -n "$http_proxy" && test "$http_proxy" = "$HTTP_PROXY" && echo $NO_PROXY only here\n'
    )
    assert succeeded(again).count(" CACHED\n") == 1  # nor do they matter to the cache


# -- control groups ---------------------------------------------------------------------------------------


@pytest.fixture
def cgroup_parent() -> Iterator[Path]:
    hierarchy = next(
        (
            path
            for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
            if os.access(path / "cgroup.procs", os.W_OK)
        ),
        None,
    )
    if hierarchy is None:
        pytest.skip("no cgroup v2 hierarchy to write to")
    yield hierarchy / f"inlay-test-{os.getpid()}/below"
    for folder in (hierarchy / f"inlay-test-{os.getpid()}/below", hierarchy / f"inlay-test-{os.getpid()}"):
        if folder.exists():
            folder.rmdir()  # fails where a build left a group behind


@pytest.mark.parametrize("security", ["sandbox", "insecure"])
def test_steps_run_below_the_cgroup_that_was_asked_for(
    build: Builder, cgroup_parent: Path, security: str
) -> None:
    seconds = str(900_000 + os.getpid())
    parent = "/".join(cgroup_parent.parts[-2:])
    dockerfile = f"RUN --security={security} sleep {seconds}\n"
    process = start(build, dockerfile, "--cgroup-parent", parent, "--allow", "security.insecure")
    wait_until(lambda: pids_of("sleep", seconds))
    group = Path(f"/proc/{pids_of('sleep', seconds)[0]}/cgroup").read_text().splitlines()[-1]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert group.startswith(f"0::/{parent}/inlay-")
    assert [path.name for path in cgroup_parent.iterdir() if path.is_dir()] == []


def test_a_cgroup_that_cannot_be_is_an_error(build: Builder) -> None:
    done = build("RUN true\n", "--cgroup-parent", "/cgroup.procs/x")
    assert done.code == 2
    assert "--cgroup-parent /cgroup.procs/x: steps cannot run below it" in done.err
    assert build("RUN true\n", "--cgroup-parent", "system.slice:").code == 2


# -- without root -----------------------------------------------------------------------------------------

FOR_USERS = """FROM scratch AS base
ADD rootfs.tar /
FROM base
COPY root /
RUN --mount=target=/in test -e /in/rootfs.tar && ! touch /in/new
RUN --mount=target=/in,rw touch /in/new
RUN --mount=from=base,source=/etc,target=/in grep root /in/passwd
RUN --mount=type=cache,target=/c,uid=5,gid=6,mode=0700 stat -c 'cache %u:%g %a' /c && touch /c/x
RUN --mount=type=tmpfs,target=/t,size=1m head -c 2m /dev/zero > /t/x || stat -c 'took %s' /t/x
RUN --mount=type=secret,id=s,uid=5,mode=0400 stat -c 'secret %u %a' /run/secrets/s
RUN --mount=type=secret,id=s,env=S test "$S" = word
RUN --mount=type=ssh,id=keys,uid=5 ssh-add -L && stat -c 'socket %u' $SSH_AUTH_SOCK
RUN --network=none test "$(ls /sys/class/net)" = lo
RUN --network=host test "$(ls /sys/class/net | wc -l)" -ge 1
RUN <<EOF
set -e
echo a script > /script
EOF
RUN <<EOF cat > /input
an input
EOF
RUN test "$(cat /script /input | wc -l)" = 2 && test "$http_proxy" = "http://proxy.$(echo example)"
RUN echo $(df -k /dev/shm | tail -1) && grep db /etc/hosts && ulimit -n
RUN --security=insecure mkdir /m && mount -t tmpfs none /m && umount /m && rmdir /m
RUN test ! -e /in && test ! -e /c && test ! -e /t && test ! -e /run
"""


@pytest.mark.parametrize("runtime", ["crun", "runc", "builtin"])
def test_an_ordinary_user_has_all_of_it(
    users: Callable[..., User], rootfs: Path, agent: Agent, tmp_path: Path, runtime: str
) -> None:
    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    context = tmp_path / "mine"
    context.mkdir()
    (context / "Dockerfile").write_text(FOR_USERS)
    shutil.copy(rootfs, context / "rootfs.tar")
    put_program("ssh-add", context / "root")
    shutil.copy(agent.key, tmp_path / "mine/key")
    user = users()
    given = user.give(context)
    done = user.inlay(
        *("build", "--progress", "plain", "--runtime", runtime, "--secret", "id=s,env=WORD"),
        *("--ssh", f"keys={given}/key", "--shm-size", "3m", "--add-host", "db:10.9.8.7"),
        *("--ulimit", "nofile=100:200", "--allow", "security.insecure", "--allow", "network.host"),
        *(
            "--build-arg",
            "http_proxy=http://proxy.example",
            "-o",
            f"type=oci,tar=false,dest={user.home}/image",
        ),
        str(given),
        env={"WORD": "word"},
    )
    out = succeeded(done)
    (given / "Dockerfile").write_text(FOR_USERS.partition("RUN")[0] + "RUN true\n")
    more = user.inlay("build", "--runtime", runtime, "--ulimit", "nofile=90000000", str(given))
    assert (more.code, "--ulimit nofile=90000000:90000000: at most " in more.err) == (1, True), more.err
    for said in ("cache 5:6 700", "took 1048576", "secret 5 400", "socket 5", "100", "10.9.8.7\tdb"):
        assert f" {said}\n" in out
    assert f" ssh-ed25519 {agent.public(agent.key)}" in out
    assert files_with(user.home / "image", b"proxy.example") == []
    assert BuiltImage.read(user.home / "image").names(2) == {"proc", "sys", "input", "script"}
