"""ADD of URLs, as a user does it, from a real server on loopback."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from web import Page, Web, versioned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry

pytestmark = [pytest.mark.e2e, pytest.mark.root]

OLD = "Fri, 01 Mar 2024 10:20:30 GMT"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    return folder


def archive(name: str, text: bytes, mode: str = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]
        member = tarfile.TarInfo(name)
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return packed.getvalue()


def bodies(web: Web) -> int:
    return sum("if-none-match" not in asked.headers for asked in web.asked)


def test_a_rebuild_downloads_nothing_and_a_change_is_noticed(
    inlay: Callable[..., Any], web: Web, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(
        f"FROM scratch\nADD {web.url}/file.bin /d/\nADD --chmod=0755 --chown=7:8 {web.url}/file.bin /x\n"
        f"ADD {web.url}/a.tar.gz /p/\nADD --unpack {web.url}/a.tar.gz /u/\n"
    )
    web.pages["/file.bin"] = versioned(b"one\n", Last_Modified=OLD)
    web.pages["/a.tar.gz"] = versioned(archive("in.txt", b"in\n"))
    build = ("build", "--progress", "plain", "--root", str(tmp_path / "s"), str(context))
    out = tmp_path / "out"
    first = inlay(*build, "-o", str(out), "-o", f"type=tar,dest={tmp_path}/out.tar")
    assert first.code == 0, first.err
    with tarfile.open(tmp_path / "out.tar") as tar:
        looks = {each.name: (oct(each.mode), each.uid, each.gid) for each in tar if each.isfile()}
    assert looks == {
        "d/file.bin": ("0o600", 0, 0),
        "x": ("0o755", 7, 8),
        "p/a.tar.gz": ("0o600", 0, 0),
        "u/in.txt": ("0o644", 0, 0),
    }
    assert int((out / "d/file.bin").stat().st_mtime) == 1709288430
    assert len(web.asked) == 2
    again = inlay(*build)
    assert again.cached == 4, again.err
    assert bodies(web) == 2
    web.pages["/file.bin"] = versioned(b"two\n", '"v2"')
    changed = inlay(*build, "-o", str(tmp_path / "changed"))
    assert changed.cached == 0, changed.err
    assert (tmp_path / "changed/d/file.bin").read_text() == "two\n"


def test_with_a_checksum_a_cached_build_asks_nobody(
    inlay: Callable[..., Any], web: Web, context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    sha = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    (context / "Dockerfile").write_text(f"FROM scratch\nADD --checksum={sha} {web.url}/h /\n")
    web.pages["/h"] = Page(b"hello\n")
    ref = f"{docker_registry.host}/checksum:1"
    first = inlay(
        "build", "--root", str(tmp_path / "1"), "--cache-to", "type=inline", "-t", ref, "--push", str(context)
    )
    assert first.code == 0, first.err
    again = ("build", "--progress", "plain", "--root", str(tmp_path / "2"), "--cache-from", ref, str(context))
    second = inlay(*again)
    assert second.cached == 1, second.err
    assert len(web.asked) == 1
    (context / "Dockerfile").write_text(f"FROM scratch\nADD --checksum={sha} {web.url}/other /\n")
    web.pages["/other"] = Page(b"evil\n")
    third = inlay("build", "--root", str(tmp_path / "3"), str(context))
    assert third.code == 1
    assert "check the URL, or the checksum" in third.err


def test_a_fresh_machine_finds_downloads_in_the_image(
    inlay: Callable[..., Any], web: Web, context: Path, docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {web.url}/a /a\nADD {web.url}/b /b\n")
    web.pages["/a"], web.pages["/b"] = Page(b"a", headers={"Last-Modified": OLD}), Page(b"b")
    ref = f"{docker_registry.host}/downloads:1"
    build = ("build", "--progress", "plain", "--cache-to", "type=inline", "--push")
    first = inlay(*build, "--root", str(tmp_path / "1"), "-t", ref, str(context))
    assert first.code == 0, first.err
    second = inlay(*build, "--root", str(tmp_path / "2"), "-t", ref, "--cache-from", ref, str(context))
    assert second.cached == 2, second.err
    assert first.err.splitlines()[-1].split(" · ")[0] == second.err.splitlines()[-1].split(" · ")[0]


def test_a_token_opens_the_door_and_is_left_nowhere(
    inlay: Callable[..., Any], web: Web, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {web.url}/private /\n")

    def guarded(asked: Any, _: object) -> Page:
        right = asked.headers.get("authorization") == "Bearer s3cr3t-t0ken"
        return Page(b"for you\n", headers={"ETag": '"1"'}) if right else Page(b"no", 401)

    web.pages["/private"] = guarded
    store = tmp_path / "s"
    build = ("build", "--progress", "plain", "--root", str(store), "-o", str(tmp_path / "out"))
    refused = inlay(*build, str(context))
    assert refused.code == 1
    assert "HTTP_AUTH_TOKEN_127.0.0.1" in refused.err
    secret = ("--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN")
    done = inlay(*build, *secret, str(context), env={"TOKEN": "s3cr3t-t0ken"})
    assert done.code == 0, done.err
    assert (tmp_path / "out/private").read_text() == "for you\n"
    kept = [path.read_bytes() for path in store.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [data for data in [*kept, done.err.encode()] if b"s3cr3t-t0ken" in data]


def test_a_server_that_lies_about_a_length_leaves_nothing_half_done(
    inlay: Callable[..., Any], web: Web, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {web.url}/lie /\n")
    web.pages["/lie"] = Page(b"short", headers={"Content-Length": "100000"})
    store = tmp_path / "s"
    done = inlay("build", "--root", str(store), str(context))
    assert done.code == 1
    assert "closed in the middle" in done.err
    assert "http" not in os.listdir(store)
    assert os.listdir(store / "snapshots/new") == []
