"""What every executor promises (inlay.executor.executor), held against crun, runc and the built-in one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inlay.cancellation import Cancellation
from inlay.errors import ProcessFailed, SolveError
from inlay.executor import cgroup, defaults, launcher, namespaces
from inlay.executor.choose import make_executor as executor_named
from inlay.executor.executor import Bind, ProcessSpec, Tmpfs, Ulimit
from inlay.executor.memory import MemoryFile, memory_files
from inlay.executor.namespaces import NamespacesExecutor
from inlay.executor.prepared import with_prepared
from inlay.system import linux
from processes import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inlay.executor.executor import Executor
    from inlay.executor.prepared import PreparedSpec

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox-static"),
]

PATH = "PATH=/bin"
NAP = f"4321.{os.getpid()}"
"""Seconds that steps sleep, which tell their processes from those of others."""


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with busybox and its applets."""
    root = tmp_path_factory.mktemp("busybox")
    root.chmod(0o755)
    (root / "bin").mkdir()
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    for applet in subprocess.check_output([root / "bin/busybox", "--list"], text=True).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    return root


@pytest.fixture
def folder(busybox: Path, tmp_path: Path) -> str:
    """A plain folder to be the root, which steps may dirty."""
    return shutil.copytree(busybox, f"{tmp_path}/root", symlinks=True)


@pytest.fixture
def rootfs(busybox: Path, tmp_path: Path) -> Iterator[int]:
    """A detached overlay on the busybox tree; what is written is in `tmp_path/upper`."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = (
        ("source", "overlay"),
        ("lowerdir", str(busybox)),
        ("upperdir", f"{tmp_path}/upper"),
        ("workdir", f"{tmp_path}/work"),
    )
    fd = linux.new_mount("overlay", options)
    yield fd
    os.close(fd)


@pytest.fixture(scope="session", params=["builtin", "crun", "runc"])
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    made = make_executor(request.param, str(tmp_path_factory.mktemp("bundle")))
    yield made
    made.close()


def make_executor(name: str, folder: str) -> Executor:
    executor = executor_named(name, folder)
    if executor is None:
        pytest.skip(f"{name} is not installed")
    return executor


class Result:
    def __init__(self, code: int, output: list[tuple[int, bytes]]) -> None:
        self.code = code
        self.stdout = b"".join(data for fd, data in output if fd == 1).decode()
        self.stderr = b"".join(data for fd, data in output if fd == 2).decode()


def run(executor: Executor, rootfs: int | str, *args: str, **fields: object) -> Result:
    output: list[tuple[int, bytes]] = []
    spec = ProcessSpec(args=args, rootfs=rootfs, env=(PATH,))._replace(**fields)
    code = executor.run(spec, lambda fd, data: output.append((fd, data)), Cancellation())
    return Result(code, output)


def shell(executor: Executor, rootfs: int | str, script: str, **fields: object) -> Result:
    return run(executor, rootfs, "sh", "-c", script, **fields)


def mounts_below(folder: Path) -> list[str]:
    """What this machine's mount table has below the tests' folders."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        return [line for line in file if str(folder.parent) in line]


# --- the process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_exit_code_is_the_programs(executor: Executor, rootfs: int, code: int) -> None:
    assert shell(executor, rootfs, f"exit {code}").code == code


def test_a_killed_child_counts_128_and_its_signal(executor: Executor, rootfs: int) -> None:
    assert shell(executor, rootfs, "sh -c 'kill -15 $$'; exit $?").code == 143


def test_missing_program_is_an_error_with_code_127(executor: Executor, rootfs: int) -> None:
    with pytest.raises(ProcessFailed, match='"nosuch": executable file not found') as error:
        run(executor, rootfs, "nosuch")
    assert error.value.exit_code == 127


def test_missing_interpreter_is_told_from_a_missing_program(
    executor: Executor, rootfs: int, tmp_path: Path
) -> None:
    (tmp_path / "upper/script").write_text("#!/no/such/sh\n")
    (tmp_path / "upper/script").chmod(0o755)
    with pytest.raises(ProcessFailed, match="interpreter or loader") as error:
        run(executor, rootfs, "/script")
    assert error.value.exit_code == 127


def test_missing_program_by_path_is_an_error_with_code_127(executor: Executor, rootfs: int) -> None:
    with pytest.raises(ProcessFailed, match="/bin/nosuch") as error:
        run(executor, rootfs, "/bin/nosuch")
    assert error.value.exit_code == 127


def test_program_that_is_no_program_is_an_error_with_code_126(executor: Executor, rootfs: int) -> None:
    with pytest.raises(ProcessFailed, match="/etc/passwd") as error:
        run(executor, rootfs, "/etc/passwd")
    assert error.value.exit_code == 126


def test_program_of_another_architecture_says_so(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    program = tmp_path / "foreign"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100))
    program.chmod(0o755)
    with pytest.raises(ProcessFailed, match="another architecture") as error:
        run(executor, rootfs, "/foreign", mounts=(Bind("/foreign", str(program)),))
    assert error.value.exit_code == 126


def foreign_program() -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100)


def dynamic_program() -> bytes:
    """A program of this machine whose loader no image has."""
    with open(os.path.realpath("/bin/ls"), "rb") as file:
        return file.read()


UNUSABLE = {
    "#!/no/such/sh": (b"#!/no/such/sh\n", 0o755, 127, "its interpreter or loader is not in the image"),
    "#! of a missing loader": (b"#!/dynamic\n", 0o755, 127, "its interpreter or loader is not in the image"),
    "missing loader": (dynamic_program(), 0o755, 127, "its interpreter or loader is not in the image"),
    "not executable": (b"#!/bin/sh\n", 0o644, 126, "Permission denied"),
    "#! not executable": (b"#!/etc/passwd\n", 0o755, 126, "Permission denied"),
    "other architecture": (foreign_program(), 0o755, 126, "another architecture"),
    "#! of another architecture": (b"#!/foreign -x\n", 0o755, 126, "another architecture"),
    "text": (b"echo hello\n", 0o755, 126, "Exec format error"),
    "empty": (b"", 0o755, 126, "Exec format error"),
}


@pytest.mark.parametrize("mounted", [False, True], ids=["image", "mount"])
@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_executed_says_why(
    executor: Executor, folder: str, tmp_path: Path, case: str, *, mounted: bool
) -> None:
    content, mode, code, words = UNUSABLE[case]
    root = Path(folder)
    for name, data in (("dynamic", dynamic_program()), ("foreign", foreign_program())):
        (root / name).write_bytes(data)
        (root / name).chmod(0o755)
    program = (tmp_path / "tools" if mounted else root) / "bin/program"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_bytes(content)
    program.chmod(mode)
    mounts = (Bind("/opt", str(tmp_path / "tools"), readonly=True),) if mounted else ()
    path = "/opt/bin/program" if mounted else "/bin/program"
    with pytest.raises(ProcessFailed, match=words) as error:
        run(executor, folder, path, mounts=mounts)
    assert error.value.exit_code == code
    with pytest.raises(ProcessFailed, match=words) as error:
        run(executor, folder, "./program", mounts=mounts, cwd=os.path.dirname(path))
    assert error.value.exit_code == code


@pytest.mark.parametrize("code", [1, 126, 127])
@pytest.mark.parametrize(
    "line",
    [
        "start: exec /opt/app: not found",
        'exec: "nosuch": executable file not found in $PATH',
        "exec /bin/sh: no such file or directory",
        "exec /bin/sh: exec format error",
        "exec /bin/sh: permission denied",
        "exec container process `/bin/sh`: Exec format error",
        "exec container process (missing dynamic library?) `/bin/sh`: No such file or directory",
        '{"msg":"exec container process `/bin/sh`: Permission denied","level":"error","time":"2026-01-01T00:00:00Z"}',
        "executable file `/bin/sh` not found in $PATH: No such file or directory",
        "open executable: Permission denied",
    ],
)
def test_what_a_program_writes_is_not_taken_for_its_runtimes_words(
    executor: Executor, rootfs: int, line: str, code: int
) -> None:
    result = run(executor, rootfs, "/bin/sh", "-c", f"echo '{line}' >&2; exit {code}")
    assert (result.code, result.stdout, result.stderr) == (code, "", f"{line}\n")


def test_output_comes_as_it_is_written(executor: Executor, rootfs: int) -> None:
    times: list[float] = []
    spec = ProcessSpec(("sh", "-c", "echo a; sleep 0.5; echo b"), rootfs, (PATH,))
    executor.run(spec, lambda *_: times.append(time.monotonic()), Cancellation())
    assert times[-1] - times[0] > 0.3


def test_output_keeps_its_order_and_its_stream(executor: Executor, rootfs: int) -> None:
    result = shell(executor, rootfs, "for i in 1 2 3; do echo o$i; echo e$i >&2; done")
    assert (result.stdout, result.stderr) == ("o1\no2\no3\n", "e1\ne2\ne3\n")


def test_large_output_is_complete(executor: Executor, rootfs: int) -> None:
    assert len(shell(executor, rootfs, "head -c 3000000 /dev/zero").stdout) == 3_000_000


def test_standard_input_is_empty(executor: Executor, rootfs: int) -> None:
    assert run(executor, rootfs, "cat").stdout == ""


def test_environment_is_the_specs_and_home(executor: Executor, rootfs: int) -> None:
    result = run(executor, rootfs, "env", env=(PATH, "A=b=c", "EMPTY="))
    assert sorted(result.stdout.splitlines()) == ["A=b=c", "EMPTY=", "HOME=/root", PATH]


def test_home_of_a_user_is_the_images(executor: Executor, rootfs: int) -> None:
    assert shell(executor, rootfs, "echo $HOME", uid=1000).stdout == "/home/app\n"


def test_unicode_passes(executor: Executor, rootfs: int) -> None:
    assert shell(executor, rootfs, "echo ä $X", env=(PATH, "X=\u2028<&>")).stdout == "ä \u2028<&>\n"


def test_working_folder_is_made_for_its_user(executor: Executor, rootfs: int) -> None:
    result = shell(executor, rootfs, "pwd; stat -c '%u:%g %a' . ..", cwd="/srv/app", uid=7, gid=8)
    assert result.stdout == "/srv/app\n7:8 755\n7:8 755\n"


def test_user_and_groups_are_the_specs(executor: Executor, rootfs: int) -> None:
    result = shell(executor, rootfs, "id -u; id -g; id -G", uid=1000, gid=1001, additional_gids=(5, 6))
    assert result.stdout.split("\n") == ["1000", "1001", "1001 5 6", ""]


def test_user_may_open_its_standard_streams_anew(executor: Executor, rootfs: int) -> None:
    result = shell(executor, rootfs, "echo hello > /dev/stdout", uid=1000)
    assert (result.code, result.stdout) == (0, "hello\n")


def test_umask_is_022(executor: Executor, rootfs: int) -> None:
    assert shell(executor, rootfs, "umask").stdout == "0022\n"


def test_ulimits_are_set(executor: Executor, rootfs: int) -> None:
    result = shell(executor, rootfs, "ulimit -Sn; ulimit -Hn", ulimits=(Ulimit("nofile", 100, 200),))
    assert result.stdout == "100\n200\n"


def test_broken_pipe_ends_a_program_as_usual(executor: Executor, rootfs: int) -> None:
    ignored = int(run(executor, rootfs, "grep", "SigIgn", "/proc/self/status").stdout.split()[1], 16)
    assert ignored & 0x7FFFFFFF == 0


# --- what it sees ----------------------------------------------------------------------------------------


def test_nothing_of_the_host_is_visible(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    result = shell(executor, rootfs, f"cat {tmp_path}/secret /../{tmp_path}/secret; ls -1 /; ps -o pid")
    assert result.stdout.split() == ["bin", "dev", "etc", "proc", "sys", *result.stdout.split()[5:]]
    assert "host" not in result.stdout
    assert all(int(pid) < 40 for pid in result.stdout.split()[6:])


def test_host_processes_cannot_be_signalled(executor: Executor, rootfs: int) -> None:
    assert shell(executor, rootfs, f"kill -0 {os.getpid()}").code == 1


def test_kernel_settings_are_read_only(executor: Executor, rootfs: int) -> None:
    writes = "echo 1 > /proc/sys/vm/drop_caches; echo h > /proc/sysrq-trigger; echo 1 > /sys/kernel/x"
    result = shell(executor, rootfs, f"mkdir /sys/x; {writes}")
    assert result.stderr.count("Read-only file system") >= 3
    assert result.code != 0


def test_masked_paths_show_nothing(executor: Executor, rootfs: int) -> None:
    paths = " ".join(defaults.MASKED_PATHS)
    result = shell(
        executor, rootfs, f"for p in {paths}; do [ -d $p ] && ls $p || head -c 9 $p; done 2>/dev/null"
    )
    assert result.stdout == ""


def test_capabilities_are_dockers(executor: Executor, rootfs: int) -> None:
    mask = f"{defaults.capability_mask(defaults.DEFAULT_CAPABILITIES):016x}"
    status = _status(shell(executor, rootfs, "cat /proc/self/status"))
    assert [status[f"Cap{kind}"] for kind in ("Bnd", "Prm", "Eff")] == [mask] * 3
    assert [status[f"Cap{kind}"] for kind in ("Inh", "Amb")] == ["0" * 16] * 2
    assert mask == "00000000a80425fb"


def test_a_user_has_no_capabilities_but_may_gain_them(executor: Executor, rootfs: int) -> None:
    status = _status(shell(executor, rootfs, "cat /proc/self/status", uid=1000))
    assert [status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Inh", "Amb")] == ["0" * 16] * 4
    assert status["CapBnd"] == "00000000a80425fb"
    assert status["NoNewPrivs"] == "0"  # sudo and su work, as in BuildKit


def _status(result: Result) -> dict[str, str]:
    return {key: value.strip() for key, value in (line.split(":", 1) for line in result.stdout.splitlines())}


def test_system_calls_are_filtered(executor: Executor, rootfs: int) -> None:
    result = shell(executor, rootfs, "grep ^Seccomp: /proc/self/status; unshare -U true")
    assert result.stdout.split() == ["Seccomp:", "2"]
    assert "Operation not permitted" in result.stderr


REFUSED_CALLS = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "swapon": 167, "reboot": 169, "init_module": 175,
    "finit_module": 313, "delete_module": 176, "kexec_load": 246, "clock_settime": 227, "settimeofday": 164,
    "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "setns": 308, "kcmp": 312, "bpf": 321,
    "perf_event_open": 298, "userfaultfd": 323, "open_by_handle_at": 304, "fanotify_init": 300, "mbind": 237,
    "move_pages": 279, "quotactl": 179, "acct": 163, "iopl": 172, "syslog": 103, "lookup_dcookie": 212,
    "io_uring_setup": 425, "fsopen": 430, "open_tree": 428,
}  # fmt: skip
TRY_CALLS = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
for number, *arguments in eval(sys.argv[1]):
    done = libc.syscall(*[ctypes.c_long(value) for value in (number, *arguments)])
    print("ok" if done >= 0 else errno.errorcode[ctypes.get_errno()])
"""


def try_calls(executor: Executor, rootfs: int, calls: list[tuple[int, ...]], **fields: object) -> list[str]:
    """What the system calls end with in a step that runs this test's Python."""
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are x86-64's")
    command = ("chroot", "/host", sys.executable, "-c", TRY_CALLS, repr(calls))
    result = run(executor, rootfs, *command, mounts=(Bind("/host", "/", readonly=True),), **fields)
    assert result.code == 0, result.stderr
    return result.stdout.split()


def test_system_calls_that_docker_refuses_are_refused(executor: Executor, rootfs: int) -> None:
    told = try_calls(executor, rootfs, [(number, 0, 0, 0, 0, 0) for number in REFUSED_CALLS.values()])
    assert dict(zip(REFUSED_CALLS, told, strict=True)) == dict.fromkeys(REFUSED_CALLS, "EPERM")


def test_new_namespaces_and_odd_sockets_are_refused_by_their_arguments(
    executor: Executor, rootfs: int
) -> None:
    clone, clone3, socket_, personality = 56, 435, 41, 135
    new_user, alg, vsock = 0x10000000, 38, 40
    calls = [(clone, new_user, 0, 0, 0, 0), (clone3, 0, 0), (socket_, alg, 5, 0), (socket_, vsock, 1, 0)]
    told = try_calls(executor, rootfs, [*calls, (personality, 0x0040000), (personality, 0)])
    assert told == ["EPERM", "ENOSYS", "EPERM", "EPERM", "EPERM", "ok"]


def test_an_insecure_step_has_no_filter(executor: Executor, rootfs: int) -> None:
    told = try_calls(executor, rootfs, [(REFUSED_CALLS["kcmp"], 0, 0, 9, 0, 0)], security="insecure")
    assert told != ["EPERM"]


def test_what_is_orphaned_is_reaped(executor: Executor, rootfs: int) -> None:
    script = (
        "(sleep 0.05 &); (sleep 0.1 &); sleep 0.5; grep -c '^State:.Z' /proc/[0-9]*/status | grep -vc ':0'"
    )
    assert shell(executor, rootfs, script).stdout == "0\n"


def test_a_signal_to_process_1_reaches_the_program(executor: Executor, rootfs: int) -> None:
    script = "trap 'echo told; exit 3' TERM; kill -TERM 1; for i in $(seq 50); do sleep 0.1; done"
    result = shell(executor, rootfs, script)
    assert (result.code, result.stdout) == (3, "told\n")


def test_nothing_of_the_executor_can_be_read(executor: Executor, rootfs: int) -> None:
    """Process 1 is the built-in executor's own; with the others it is the program."""
    result = shell(
        executor, rootfs, "cat /proc/1/environ; readlink /proc/1/fd/* /proc/1/exe; ls /proc/1/root/"
    )
    assert "INLAY" not in result.stdout
    assert "python" not in result.stdout
    if executor.name == "builtin":
        assert result.stdout == ""


def test_insecure_step_has_everything(executor: Executor, rootfs: int) -> None:
    script = "grep -E '^(CapEff|CapAmb|Seccomp):' /proc/self/status; mount -t tmpfs x /root && echo mounted"
    result = shell(
        executor, rootfs, f"mkdir -p /root; {script}; test -w /proc/sys/vm/swappiness", security="insecure"
    )
    with open("/proc/self/status", encoding="ascii") as file:
        own = next(line.split()[1] for line in file if line.startswith("CapBnd"))
    assert result.stdout.split() == ["CapEff:", own, "CapAmb:", own, "Seccomp:", "0", "mounted"]


def test_devices_are_the_harmless_ones(executor: Executor, rootfs: int) -> None:
    reads = "for d in null zero full random urandom; do head -c 1 /dev/$d | wc -c; done"
    result = shell(executor, rootfs, f"{reads}; : > /dev/null; : < /dev/ptmx; ls /dev", uid=1000)
    assert result.stderr == ""
    assert result.stdout.split()[:5] == ["0", "1", "1", "1", "1"]
    assert result.stdout.split()[5:] == sorted(
        [*defaults.DEVICES, *defaults.DEVICE_LINKS, "pts", "shm", "mqueue"]
    )


@pytest.mark.parametrize("folder", ["/", "/dev/", "/dev/shm/", "/mnt/"])
def test_a_disk_cannot_be_opened_by_a_node_made_for_it(
    executor: Executor, rootfs: int, folder: str, tmp_path: Path
) -> None:
    device = os.stat("/").st_dev
    script = f"mknod {folder}disk b {os.major(device)} {os.minor(device)} && head -c 1 {folder}disk"
    result = shell(executor, rootfs, script, mounts=(Bind("/mnt", str(tmp_path)),))
    assert "Operation not permitted" in result.stderr or "Permission denied" in result.stderr
    assert result.code == 1


def test_shared_memory_has_its_size(executor: Executor, rootfs: int) -> None:
    result = shell(executor, rootfs, "df -k /dev/shm | tail -1; stat -c %a /dev/shm", shm_size=128 << 20)
    assert result.stdout.split()[1] == str(128 << 10)
    assert result.stdout.split()[-1] == "1777"


def test_hostname_is_buildkits_or_the_specs(executor: Executor, rootfs: int) -> None:
    assert run(executor, rootfs, "hostname").stdout == "buildkitsandbox\n"


def test_hostname_can_be_set(executor: Executor, rootfs: int) -> None:
    assert shell(executor, rootfs, "hostname; cat /etc/hosts", hostname="box").stdout.splitlines()[:2] == [
        "box",
        "127.0.0.1\tlocalhost box",
    ]


def test_hosts_and_name_servers_are_provided(executor: Executor, rootfs: int) -> None:
    script = "cat /etc/hosts; grep -c nameserver /etc/resolv.conf; echo >> /etc/hosts"
    result = shell(executor, rootfs, script, extra_hosts=(("db", "10.0.0.7"),))
    assert "127.0.0.1\tlocalhost buildkitsandbox\n" in result.stdout
    assert "10.0.0.7\tdb\n" in result.stdout
    assert int(result.stdout.split()[-1]) >= 1
    assert "Read-only file system" in result.stderr


def test_network_none_has_only_loopback(executor: Executor, rootfs: int) -> None:
    result = shell(
        executor, rootfs, "ls /sys/class/net; ip link show lo; ping -c 1 -W 1 127.0.0.1", network="none"
    )
    assert result.stdout.split()[0] == "lo"
    assert "LOOPBACK,UP" in result.stdout
    assert result.code == 0


def test_network_none_does_not_reach_the_host(executor: Executor, rootfs: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert shell(executor, rootfs, f"nc -w 2 127.0.0.1 {port} < /dev/null", network="none").code != 0


def test_network_host_is_the_hosts(executor: Executor, rootfs: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as connection:
                connection.send(b"hello")

        greeter = threading.Thread(target=greet, daemon=True)
        greeter.start()
        port = server.getsockname()[1]
        assert shell(executor, rootfs, f"nc -w 5 127.0.0.1 {port}", network="host").stdout == "hello"
        greeter.join()


# --- mounts ----------------------------------------------------------------------------------------------


def test_folder_of_the_host_is_shown_and_written_to(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_text("A")
    assert shell(executor, rootfs, "cat /mnt/x/a; echo B > /mnt/x/b",
                 mounts=(Bind("/mnt/x", str(tmp_path / "in")),)).stdout == "A"  # fmt: skip
    assert (tmp_path / "in/b").read_text() == "B\n"


def test_read_only_mount_cannot_be_written_to(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    result = shell(executor, rootfs, "echo x > /x/f", mounts=(Bind("/x", str(tmp_path), readonly=True),))
    assert "Read-only file system" in result.stderr


def test_selector_shows_a_part_and_does_not_lead_out(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("inside")
    (source / "out").symlink_to("/sub")
    (source / "up").symlink_to("../../../../sub/file")
    mounts = (
        Bind("/a", str(source), "out"),
        Bind("/b", str(source), "/up"),
        Bind("/c", str(source), "sub/file"),
    )
    assert shell(executor, rootfs, "cat /a/file /b /c", mounts=mounts).stdout == "inside" * 3


@pytest.mark.parametrize(
    ("mount", "word"),
    [
        (Bind("/x", "/etc", "no/such"), "source of the mount at /x, no/such, does not exist"),
        (Bind("/x", "/etc/passwd", "no/such"), "does not exist"),
        (Bind("/etc/passwd", "/etc"), "the folder to mount at /etc/passwd cannot cover the file"),
        (Bind("/etc", "/etc", "passwd"), "the file to mount at /etc cannot cover the folder"),
        (Tmpfs("/bin/busybox"), "the folder to mount at /bin/busybox cannot cover the file"),
    ],
)
def test_mounts_that_cannot_be_say_why(
    executor: Executor, rootfs: int, mount: Bind | Tmpfs, word: str
) -> None:
    with pytest.raises(SolveError, match=word):
        run(executor, rootfs, "true", mounts=(mount,))


def test_detached_mount_is_shown_in_several_places(executor: Executor, rootfs: int) -> None:
    files = memory_files([MemoryFile("a", b"A"), MemoryFile("b", b"B", mode=0o400, uid=1000, gid=1001)])
    try:
        mounts = (Bind("/run/a", files, "a", readonly=True), Bind("/b", files, "b"), Bind("/all", files))
        result = shell(executor, rootfs, "cat /run/a /b; stat -c '%a %u %g' /b; ls /all", mounts=mounts)
        assert result.stdout == "AB400 1000 1001\na\nb\n"
    finally:
        os.close(files)


def test_mounts_of_data_run_no_programs_and_open_no_devices(executor: Executor, rootfs: int) -> None:
    files = memory_files([MemoryFile("a", b"A")])
    try:
        mounts = (Bind("/a", files, "a", readonly=True, only_data=True), Tmpfs("/t"))
        table = run(executor, rootfs, "cat", "/proc/self/mounts", mounts=mounts).stdout
    finally:
        os.close(files)
    flags = {fields[1]: fields[3].split(",") for fields in map(str.split, table.splitlines())}
    for target in ("/a", "/etc/hosts", "/etc/resolv.conf"):
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(flags[target])
    assert "nosuid" in flags["/t"]
    assert "noexec" not in flags["/t"]
    assert "nosuid" in flags["/dev"]


def test_tmpfs_has_its_size(executor: Executor, rootfs: int) -> None:
    script = "stat -c %a /t; head -c 2m /dev/zero > /t/x || stat -c %s /t/x"
    result = shell(executor, rootfs, script, mounts=(Tmpfs("/t", size=1 << 20),))
    assert result.stdout.split() == ["1777", str(1 << 20)]


def test_folders_above_mounts_are_plain_whoever_makes_them(
    executor: Executor, rootfs: int, tmp_path: Path
) -> None:
    mounts = (Tmpfs("/a/b/tmp"), Bind("/a/c/bound", str(tmp_path)), Tmpfs("/x/y/1"), Tmpfs("/x/y/2"))
    result = shell(executor, rootfs, "touch /a/b/kept; stat -c '%a %u:%g' /a /a/b /a/c", mounts=mounts)
    assert result.stdout.split("\n") == ["755 0:0"] * 3 + [""]
    assert sorted(os.listdir(tmp_path / "upper/a")) == ["b"]
    assert os.listdir(tmp_path / "upper/a/b") == ["kept"]
    assert not (tmp_path / "upper/x").exists()


def test_the_later_of_two_mounts_on_one_target_wins(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    mounts = (Bind("/etc/hosts", str(tmp_path / "one")), Bind("/etc/hosts", str(tmp_path / "two")))
    assert shell(executor, rootfs, "cat /etc/hosts", mounts=mounts).stdout == "two"


def test_mount_below_a_mount(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    mounts = (Bind("/x", str(tmp_path / "in")), Tmpfs("/x/cache"))
    assert shell(executor, rootfs, "touch /x/cache/f; ls /x", mounts=mounts).stdout == "cache\n"
    assert list((tmp_path / "in/cache").iterdir()) == []


def test_target_through_a_symlink_stays_inside(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    (tmp_path / "upper/link").symlink_to("/../../../../etc")
    result = shell(executor, rootfs, "ls /etc/inner", mounts=(Tmpfs("/link/inner"),))
    assert result.code == 0
    assert not os.path.exists("/etc/inner")


def test_read_only_root_cannot_be_written_to(executor: Executor, rootfs: int) -> None:
    result = shell(executor, rootfs, "touch /x; touch /dev/shm/y && echo ok", readonly_rootfs=True)
    assert "Read-only file system" in result.stderr
    assert result.stdout == "ok\n"


# --- what it leaves --------------------------------------------------------------------------------------


def test_mount_points_are_taken_out_again(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    mounts = (Bind("/opt/deep/file", str(tmp_path / "file")), Tmpfs("/cache"))
    shell(executor, rootfs, "touch /made", mounts=mounts)
    left = sorted(str(path.relative_to(tmp_path / "upper")) for path in (tmp_path / "upper").rglob("*"))
    assert left == ["dev", "etc", "made", "proc", "sys"]  # as BuildKit leaves them


def test_mount_point_that_was_there_stays(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    (tmp_path / "upper/cache").mkdir()
    shell(executor, rootfs, "true", mounts=(Tmpfs("/cache"),))
    assert (tmp_path / "upper/cache").is_dir()


def test_written_files_are_readable_through_the_root_descriptor(executor: Executor, rootfs: int) -> None:
    shell(executor, rootfs, "echo new > /file; chmod 640 /file")
    fd = os.open("file", os.O_RDONLY, dir_fd=rootfs)
    assert os.read(fd, 9) == b"new\n"
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    os.close(fd)


def test_plain_folder_can_be_the_root(executor: Executor, folder: str) -> None:
    assert shell(executor, folder, "touch /made; pwd").stdout == "/\n"
    assert sorted(os.listdir(folder)) == ["bin", "dev", "etc", "made", "proc", "sys"]
    assert os.listdir(f"{folder}/etc") == ["passwd"]


def test_nothing_is_left_after_the_end(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    shell(executor, rootfs, f"sleep {NAP} & sleep {NAP} & true")
    assert processes_with(f"\0{NAP}\0") == []
    assert mounts_below(tmp_path) == []


def test_cancel_ends_every_process(executor: Executor, rootfs: int, tmp_path: Path) -> None:
    cancel = Cancellation()
    output: list[bytes] = []

    def stop_once_it_runs(_: int, data: bytes) -> None:
        output.append(data)
        threading.Thread(target=cancel.cancel).start()

    spec = ProcessSpec(("sh", "-c", f"sleep {NAP} & echo up; trap '' TERM; sleep {NAP}"), rootfs, (PATH,))
    begin = time.monotonic()
    assert executor.run(spec, stop_once_it_runs, cancel) == 137
    assert time.monotonic() - begin < 5
    assert processes_with(f"\0{NAP}\0") == []
    assert mounts_below(tmp_path) == []


def test_cancelled_before_the_start(executor: Executor, rootfs: int) -> None:
    cancel = Cancellation()
    cancel.cancel()
    assert executor.run(ProcessSpec(("sleep", NAP), rootfs, (PATH,)), lambda *_: None, cancel) == 137
    assert processes_with(f"\0{NAP}\0") == []


@pytest.mark.parametrize("end", ["exit", "cancel"])
def test_daemons_end_with_their_step(executor: Executor, rootfs: int, tmp_path: Path, end: str) -> None:
    cancel = Cancellation()
    (tmp_path / "upper/daemon").write_text(f"trap '' TERM HUP INT\nsetsid sleep {NAP} &\nsleep {NAP}\n")
    both_sleep = "until [ $(pidof sleep | wc -w) = 2 ]; do usleep 10000; done"
    script = (
        f"(setsid sh /daemon > /dev/null 2>&1 &) & {both_sleep}; echo up; [ {end} = exit ] || sleep {NAP}"
    )
    output: list[bytes] = []

    def on_output(_: int, data: bytes) -> None:
        output.append(data)
        if end == "cancel":
            cancel.cancel()

    code = executor.run(ProcessSpec(("sh", "-c", script), rootfs, (PATH,)), on_output, cancel)
    assert (code, output) == (0 if end == "exit" else 137, [b"up\n"])
    assert processes_with(f"\0{NAP}\0") == []


def test_nothing_is_left_when_the_caller_is_killed(executor: Executor, folder: str, tmp_path: Path) -> None:
    marker = NAP
    script = (
        "from test_executor import *\n"
        f"made = make_executor({executor.name!r}, {str(tmp_path / 'bundle')!r})\n"
        f"shell(made, {folder!r}, 'sleep {marker} & sleep {marker}')\n"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    caller = subprocess.Popen([sys.executable, "-c", script], env=environment)
    wait_until(lambda: len(processes_with(f"\0{marker}\0")) == 2)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    wait_until(lambda: processes_with(f"\0{marker}\0") == [])
    assert mounts_below(tmp_path) == []


def test_fork_bomb_is_contained(executor: Executor, rootfs: int) -> None:
    cancel = Cancellation()
    timer = threading.Timer(1.5, cancel.cancel)
    timer.start()
    spec = ProcessSpec(("sh", "-c", f"f() {{ f | f & sleep {NAP}; }}; f"), rootfs, (PATH,), pids_limit=310)
    counts: list[int] = []
    watcher = threading.Timer(1.0, lambda: counts.append(len(processes_with(f"\0{NAP}\0"))))
    watcher.start()
    assert executor.run(spec, lambda *_: None, cancel) in (0, 1, 2, 137)
    timer.cancel()
    watcher.join()
    assert processes_with(f"\0{NAP}\0") == []
    assert counts[0] < 320


def test_steps_run_at_the_same_time(executor: Executor, folder: str) -> None:
    results: list[str] = []
    for name in ("hosts", "resolv.conf"):
        open(f"{folder}/etc/{name}", "w").close()  # else the first to end takes away the others' mount points

    def step(number: int) -> None:
        results.append(shell(executor, folder, f"sleep 0.2; echo {number}").stdout)

    threads = [threading.Thread(target=step, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{number}\n" for number in range(8)]


def test_a_step_whose_caller_fails_ends_alone(executor: Executor, folder: str) -> None:
    for name in ("hosts", "resolv.conf"):
        open(f"{folder}/etc/{name}", "w").close()
    started = threading.Event()
    results: list[Result] = []

    def fail(_: int, data: bytes) -> None:
        started.wait(10)
        raise BrokenPipeError

    def wait() -> None:
        spec = ProcessSpec(("sh", "-c", "echo up; sleep 0.5; echo end"), folder, (PATH,))
        output: list[tuple[int, bytes]] = []

        def on_output(fd: int, data: bytes) -> None:
            output.append((fd, data))
            started.set()

        results.append(Result(executor.run(spec, on_output, Cancellation()), output))

    other = threading.Thread(target=wait)
    other.start()
    with pytest.raises(BrokenPipeError):
        executor.run(
            ProcessSpec(("sh", "-c", f"echo up; sleep {NAP}"), folder, (PATH,)), fail, Cancellation()
        )
    other.join()
    assert [(result.code, result.stdout) for result in results] == [(0, "up\nend\n")]
    wait_until(lambda: processes_with(f"\0{NAP}\0") == [])


def test_a_step_given_up_with_a_report_unread_ends_alone(folder: str) -> None:
    executor = NamespacesExecutor()
    spec = ProcessSpec(("sleep", NAP), folder, (PATH,))

    def give_up(prepared: PreparedSpec) -> None:
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        payload = launcher._payload("sandbox", namespaces._arguments(spec, prepared))
        with channel, theirs, open(os.devnull, "w") as null:
            fds = [payload, theirs.fileno(), null.fileno(), null.fileno(), *prepared.fds]
            socket.send_fds(executor._launcher.start(), [b"step"], fds)  # type: ignore[arg-type]
            wait_until(lambda: processes_with(f"\0{NAP}\0") != [])
            theirs.send(b"what the step's side says")
        os.close(payload)

    with_prepared(spec, give_up)
    wait_until(lambda: processes_with(f"\0{NAP}\0") == [])
    assert run(executor, folder, "true").code == 0
    executor.close()


def test_descriptors_are_given_back(executor: Executor, folder: str) -> None:
    run(executor, folder, "true")
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        run(executor, folder, "true")
    with pytest.raises(ProcessFailed):
        run(executor, folder, "nosuch")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("name", ["builtin", "crun", "runc"])
def test_close_leaves_no_process_and_no_cgroup(name: str, folder: str, tmp_path: Path) -> None:
    made = make_executor(name, f"{tmp_path}/bundle")
    run(made, folder, "true")
    pid, group = made._launcher._pid, made._launcher._group  # type: ignore[attr-defined]
    made.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(group)
    assert not os.path.exists(group + cgroup.TRUSTED)
    assert name == "builtin" or os.listdir(tmp_path / "bundle") == []
