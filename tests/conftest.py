"""Fixtures that several packages' tests share: real registries on free loopback ports, a base image in one."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from fake_registry import FakeRegistry
from gitserver import GitServer, Repository
from ordinary import User
from processes import free_port, is_listening, wait_until
from recorded_builds import bases, recordings  # noqa: F401 - fixtures
from running import Outcome, run_inlay
from web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# In a script's background, or under nohup, these are ignored: builds would inherit that, and tests that press Ctrl-C
# or close a terminal wait for ever.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

USER, PASSWORD = "builder", "s3cret-word"
_HTPASSWD = "builder:$2b$04$abcdefghijklmnopqrstuuzQDw2v3CQSMowG.sq3X.nH1lfmlmQMW\n"
"""What `htpasswd -nbB builder s3cret-word` prints."""


class RunningRegistry(NamedTuple):
    """A `docker-registry` (Debian's package) at `host`; `folder` holds its data and its log. It may let in nobody
    but `user` with `password`."""

    host: str
    folder: Path
    user: str = ""
    password: str = ""

    def log_size(self) -> int:
        """Bytes in the access log, once it stands still: a line comes after the answer that it is of."""
        log = self.folder / "log"
        size = -1
        while size != log.stat().st_size:
            size = log.stat().st_size
            time.sleep(0.05)
        return size

    def requests(self, since: int = 0) -> list[str]:
        """Method and path of each request that the access log shows from byte `since` on."""
        end = self.log_size()
        text = (self.folder / "log").read_bytes()[since:end].decode(errors="replace")
        lines = [line.split('"')[1] for line in text.splitlines() if '" ' in line and " HTTP/1" in line]
        return [line.rpartition(" ")[0] for line in lines]


def run_registry(folder: Path, auth: str = "") -> Iterator[RunningRegistry]:
    """Run a registry on a free port until the iterator is closed."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    host = f"127.0.0.1:{port}"
    (folder / "config.yml").write_text(
        "version: 0.1\n"
        "log: {accesslog: {disabled: false}, level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{host}'}}\n{auth}"
    )
    with (folder / "log").open("wb") as log:
        command = ["docker-registry", "serve", str(folder / "config.yml")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: is_listening(port))
            yield RunningRegistry(host, folder)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server on loopback that does what the test tells it to."""
    served = Web()
    yield served
    served.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A server of git repositories, on loopback."""
    folder = tmp_path / "served"
    folder.mkdir()
    served = GitServer(folder)
    yield served
    served.close()


@pytest.fixture
def repository(server: GitServer) -> Repository:
    """A repository of `server`, with one commit."""
    made = Repository(server.folder, "repo")
    made.commit(f="one\n", sub__s="sub\n")
    return made


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry that lets everybody in."""
    yield from run_registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def guarded_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry that asks for a name and a password (Basic)."""
    folder = tmp_path_factory.mktemp("guarded-registry")
    (folder / "htpasswd").write_text(_HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
    for registry in run_registry(folder, auth):
        yield registry._replace(user=USER, password=PASSWORD)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """A registry in memory that misbehaves on demand."""
    registry = FakeRegistry()
    yield registry
    registry.close()


@pytest.fixture
def inlay() -> Callable[..., Outcome]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return run_inlay


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of busybox, as a tar."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed (Debian package busybox-static)")
    path = tmp_path_factory.mktemp("base") / "rootfs.tar"
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "etc", "tmp", "root"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(member)
        tar.add(busybox, "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                member = tarfile.TarInfo(f"bin/{applet}")
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(member)
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture(scope="session")
def base(rootfs: Path, docker_registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of a base image in the registry, built by inlay itself."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = rootfs.parent
    (folder / "Dockerfile").write_text(
        'FROM scratch\nADD rootfs.tar /\nENV PATH=/usr/sbin:/usr/bin:/sbin:/bin\nCMD ["/bin/sh"]\n'
    )
    reference = f"{docker_registry.host}/base:1"
    root = tmp_path_factory.mktemp("base-store")
    done = run_inlay(
        "build", "--root", str(root), "--progress", "plain", "-t", reference, "--push", str(folder)
    )
    assert done.code == 0, done.err
    return reference


@pytest.fixture
def users() -> Iterator[Callable[..., User]]:
    """Makes ordinary users: `users()`, `users(ids=0)`."""
    missing = [name for name in ("newuidmap", "setpriv", "unshare") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root to make a user{', and ' + ', '.join(missing) if missing else ''}")
    with tempfile.TemporaryDirectory(prefix="inlay-user-") as folder:
        os.chmod(folder, 0o755)
        made = iter(range(100))

        def make(**options: Any) -> User:
            place = Path(folder) / str(next(made))
            place.mkdir()
            return User(place, **options)

        yield make
