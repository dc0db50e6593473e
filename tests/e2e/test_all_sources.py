"""An ordinary user builds from every kind of source, and it comes to what root's build comes to, to the byte."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gitserver import GitServer, Repository
from processes import free_port, is_listening, wait_until
from web import Page, Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunningRegistry
    from ordinary import User

pytestmark = [pytest.mark.e2e, pytest.mark.root]

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


@pytest.fixture
def git(tmp_path: Path) -> Iterator[GitServer]:
    (tmp_path / "served").mkdir()
    served = GitServer(tmp_path / "served")
    Repository(served.folder, "inner").commit(f="of the submodule\n")
    made = Repository(served.folder, "repo")
    made.commit(f="one\n", sub__dockerfile="FROM scratch\nCOPY . /in-sub\n", sub__f="sub\n")
    (made.work / "Dockerfile").write_text("FROM scratch\nCOPY . /all\n")
    made.git("submodule", "add", "-q", f"{served.url}/inner.git", "inner")
    made.commit()
    made.git("tag", "-a", "-m", "v1", "v1")
    made.push("v1")
    yield served
    served.close()


@pytest.fixture
def both(inlay: Callable[..., Any], users: Callable[..., User], tmp_path: Path) -> Callable[..., Any]:
    """Builds as root and as a user; the images must be equal. Returns root's outcome."""

    def build(context: str, *flags: str, stdin: bytes = b"") -> Any:
        user = users()
        if os.path.isdir(context):
            shutil.copytree(context, user.home / "context")
        roots = inlay("build", "--root", str(tmp_path / "s"), *flags, context, env=EPOCH, stdin=stdin)
        theirs = str(user.home / "context") if os.path.isdir(context) else context
        users_ = user.inlay("build", *flags, theirs, env=EPOCH, stdin=stdin)
        for done in (roots, users_):
            assert done.code == 0, done.err
            assert "WARN" not in done.err
        assert digest(users_) == digest(roots)
        return roots

    return build


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="inlay-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def digest(done: Any) -> str:
    found = re.match("sha256:[0-9a-f]{64}", done.err.splitlines()[-1])
    assert found, done.err
    return found[0]


def tar(**files: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid = len(text), 1_600_000_000, 33
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


@pytest.mark.parametrize("wanted", ["#v1", "#main:sub"])
def test_a_git_context_gives_root_and_a_user_the_same_image(
    both: Callable[..., Any], git: GitServer, wanted: str
) -> None:
    both(f"{git.url}/repo.git{wanted}")


def test_archives_of_the_web_and_of_standard_input(both: Callable[..., Any], web: Web) -> None:
    files = tar(Dockerfile="FROM scratch\nCOPY . /all\nADD --chown=5:6 f /g\n", f="file\n")
    web.pages["/context"] = Page(gzip.compress(files))
    assert digest(both(f"{web.url}/context")) == digest(both("-", stdin=files))


def test_added_files_archives_and_repositories(
    both: Callable[..., Any], web: Web, git: GitServer, tmp_path: Path
) -> None:
    web.pages["/f"] = Page(b"hello\n", headers={"ETag": '"1"'})
    web.pages["/t.tar"] = Page(gzip.compress(tar(x="unpacked\n")))
    sha = hashlib.sha256(b"hello\n").hexdigest()
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM scratch\nADD --checksum=sha256:{sha} --chmod=640 --chown=7:8 {web.url}/f /\n"
        f"ADD {web.url}/f /again\nADD --unpack=true {web.url}/t.tar /t/\n"
        f"ADD --keep-git-dir=false {git.url}/repo.git#v1 /r\nADD {git.url}/repo.git#main:sub /s\n"
    )
    both(str(context))


def test_a_repository_by_gits_own_protocol(both: Callable[..., Any], git: GitServer) -> None:
    port = free_port()
    daemon = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", f"--port={port}", "--listen=127.0.0.1", "--export-all",
         f"--base-path={git.folder}", str(git.folder)],
        stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"},
    )  # fmt: skip
    try:
        wait_until(lambda: is_listening(port))
        both(f"git://127.0.0.1:{port}/repo.git#main:sub")
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait(10)


def test_images_by_tag_digest_index_mirror_and_layout(
    both: Callable[..., Any], inlay: Callable[..., Any], docker_registry: RunningRegistry, open_folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n")
    name = f"{docker_registry.host}/sources/base:1"
    platforms = ("--platform", "linux/amd64,linux/arm64")
    made = inlay(
        *("build", "--root", str(tmp_path / "b"), *platforms, "-t", name, "--push", str(tmp_path / "base")),
        env=EPOCH,
    )
    assert made.code == 0, made.err
    layouts = {}
    for kind, place in (("tar=false", open_folder / "layout"), ("tar=true", open_folder / "layout.tar")):
        out = ("-o", f"type=oci,{kind},dest={place}")
        done = inlay("build", "--root", str(tmp_path / "b"), *out, str(tmp_path / "base"), env=EPOCH)
        assert done.code == 0, done.err
        layouts[kind] = place
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"ARG OTHER=linux/arm64\nFROM {name}@{digest(made)} AS by-digest\nFROM --platform=$OTHER {name} AS arm\n"
        f"FROM {name}\n"
        "COPY --from=by-digest / /a/\nCOPY --from=arm / /b/\nCOPY --from=mirrored / /c/\n"
        "COPY --from=folder / /d/\nCOPY --from=archive / /e/\n"
    )
    named = {
        "mirrored": "docker-image://registry.example/base:1",
        "folder": f"oci-layout://{layouts['tar=false']}",
        "archive": f"oci-layout://{layouts['tar=true']}",
    }
    flags = [part for pair in named.items() for part in ("--build-context", "=".join(pair))]
    both(str(context), *flags, "--registry-mirror", f"registry.example={docker_registry.host}/sources")
