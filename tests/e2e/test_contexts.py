"""Build contexts of all kinds: git, the web, standard input; and Dockerfiles in and beside them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from gitserver import GitServer, Repository
from web import Page, Web, versioned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ordinary import User

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DOCKERFILE = "FROM scratch\nCOPY . /all/\nCOPY f /f\n"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


@pytest.fixture
def repository(server: GitServer) -> Repository:
    made = Repository(server.folder, "repo")
    (made.work / "Dockerfile").write_text(DOCKERFILE)
    (made.work / ".dockerignore").write_text("f\n")
    (made.work / "docker").mkdir()
    (made.work / "docker/Other").write_text("FROM scratch\nCOPY f /other\n")
    made.commit(f="one\n", sub__f="of sub\n", sub__dockerfile="FROM scratch\nCOPY f /in-sub\n")
    return made


@pytest.fixture
def build(inlay: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Builds with one store; what comes out goes to `out`."""

    def run(*arguments: str, **options: Any) -> Any:
        return inlay(
            "build", "--progress", "plain", "--root", str(tmp_path / "store"), "-o", str(tmp_path / "out"),
            *arguments, **options,
        )  # fmt: skip

    return run


def tar(**files: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), 1_600_000_000
            if text.startswith("-> "):
                member.type, member.linkname, member.size = tarfile.SYMTYPE, text[3:], 0
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def steps_cached(done: Any) -> int:
    return int(re.search(r"(\d+) steps? cached", done.err)[1])  # type: ignore[index]


def out(tmp_path: Path) -> dict[str, str]:
    top = tmp_path / "out"
    return {
        str(path.relative_to(top)): path.read_text(errors="replace")
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


def test_a_git_repository_is_a_context(
    build: Callable[..., Any], server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    url = f"{server.url}/repo.git"
    done = build(url)
    assert done.code == 0, done.err
    files = out(tmp_path)
    assert (
        files["f"] == files["all/f"] == "one\n"
    )  # a .dockerignore in a repository is not heeded, as in BuildKit
    assert files["all/.dockerignore"] == "f\n"
    assert not [name for name in files if ".git/" in name]
    server.requests.clear()
    again = build(f"{url}#main")
    assert steps_cached(again) == 2, again.err
    assert set(server.requests) == {"GET /repo.git/info/refs", "POST /repo.git/git-upload-pack"}
    repository.commit(f="two\n")
    assert steps_cached(build(url)) == 0
    assert out(tmp_path)["f"] == "two\n"


def test_a_folder_of_a_git_repository_and_another_dockerfile_in_it(
    build: Callable[..., Any], server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    done = build(f"{server.url}/repo.git#main:sub")
    assert done.code == 0, done.err
    assert out(tmp_path) == {"in-sub": "of sub\n"}
    other = build("-f", "docker/Other", f"{server.url}/repo.git?branch=main")
    assert other.code == 0, other.err
    assert out(tmp_path) == {"in-sub": "of sub\n", "other": "one\n"}
    missing = build("-f", "docker/Missing", f"{server.url}/repo.git")
    assert missing.code == 2
    assert "there is no docker/Missing in " in missing.err


def test_a_dockerfile_beside_a_git_repository(
    build: Callable[..., Any], server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    own = "FROM scratch\nCOPY sub/f /own\n"
    (tmp_path / "Own").write_text(own)
    url = f"{server.url}/repo.git"
    assert build("-f", str(tmp_path / "Own"), url).code == 0
    assert out(tmp_path) == {"own": "of sub\n"}
    piped = build("-f", "-", url, stdin=own.replace("/own", "/piped").encode())
    assert piped.code == 0, piped.err
    assert out(tmp_path)["piped"] == "of sub\n"


def test_the_git_folder_is_kept_where_asked_for(
    build: Callable[..., Any], server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    url = f"{server.url}/repo.git"
    assert build("--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", url).code == 0
    assert "all/.git/HEAD" in out(tmp_path)


@pytest.mark.parametrize("packer", PACKERS)
def test_an_archive_of_the_web(build: Callable[..., Any], web: Web, tmp_path: Path, packer: str) -> None:
    web.pages["/ctx"] = versioned(PACKERS[packer](tar(Dockerfile=DOCKERFILE, f="one\n")))
    done = build(f"{web.url}/ctx?key=hidden")
    assert done.code == 0, done.err
    assert out(tmp_path) == {"all/Dockerfile": DOCKERFILE, "all/f": "one\n", "f": "one\n"}
    again = build(f"{web.url}/ctx?key=hidden")
    assert steps_cached(again) == 2, again.err
    assert "if-none-match" in web.asked[-1].headers
    assert len(web.asked) == 2


def test_a_dockerfile_of_the_web(build: Callable[..., Any], web: Web, tmp_path: Path) -> None:
    web.pages["/Dockerfile"] = Page(b"FROM scratch\nCOPY context /itself\n")
    done = build(f"{web.url}/Dockerfile")
    assert done.code == 0, done.err
    assert out(tmp_path) == {"itself": "FROM scratch\nCOPY context /itself\n"}


@pytest.mark.parametrize("packer", PACKERS)
def test_an_archive_on_standard_input(build: Callable[..., Any], tmp_path: Path, packer: str) -> None:
    archive = PACKERS[packer](
        tar(**{"Dockerfile": "-> docker/D", "docker/D": DOCKERFILE, "f": "one\n" * 999})
    )
    done = build("-", stdin=archive)
    assert done.code == 0, done.err
    assert out(tmp_path)["f"] == "one\n" * 999
    layers = set(os.listdir(tmp_path / "store/snapshots"))
    again = build("-", stdin=archive)
    assert steps_cached(again) == 2, again.err
    assert set(os.listdir(tmp_path / "store/snapshots")) == layers
    named = build("-f", "docker/D", "-", stdin=archive)
    assert steps_cached(named) == 2, named.err


def test_a_change_in_an_archive_is_explained_by_its_file(build: Callable[..., Any]) -> None:
    assert build("-", stdin=tar(Dockerfile=DOCKERFILE, f="one\n")).code == 0
    done = build("--explain", "-", stdin=tar(Dockerfile=DOCKERFILE, f="two\n"))
    assert "what it takes from the build context has changed" in done.err
    assert "~ f: content" in done.err


def test_a_dockerfile_on_standard_input_has_an_empty_context(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    done = build("-", stdin=b"FROM scratch\nCOPY . /x\nCOPY <<EOF /made\nhi\nEOF\n")
    assert done.code == 0, done.err
    assert out(tmp_path) == {"made": "hi\n"}


def test_a_dockerfile_on_standard_input_beside_a_folder(build: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx/f").write_text("f\n")
    done = build("-f", "-", str(tmp_path / "ctx"), stdin=b"FROM scratch\nCOPY f /g\n")
    assert done.code == 0, done.err
    assert out(tmp_path) == {"g": "f\n"}


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("-f", "-", "-"), b"FROM scratch\n", "not both"),
        (("-f", "Other", "-"), b"FROM scratch\n", "-f names another one"),
        (("-",), b"", "standard input is empty"),
        (("nowhere",), b"", "does not exist"),
        (("http://127.0.0.1:1/ctx",), b"", "cannot download"),
        (("git://127.0.0.1:1/x.git",), b"", "git failed"),
        (("https://example.com/x.git?what=1",), b"", 'unexpected query "what"'),
    ],
)
def test_what_cannot_be_a_context_is_said(
    build: Callable[..., Any], arguments: tuple[str, ...], stdin: bytes, said: str
) -> None:
    done = build(*arguments, stdin=stdin)
    assert done.code in (1, 2)
    assert said in done.err
    assert "Traceback" not in done.err


def test_an_archive_cannot_reach_outside(build: Callable[..., Any], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil = tar(
        **{"Dockerfile": DOCKERFILE, "f": "f", "up": f"-> {tmp_path}", "up/mark": "x", "../../mark": "y"}
    )
    build("-", stdin=evil)
    assert not mark.exists()
    secret = tmp_path / "secret"
    secret.write_text("FROM scratch\n")
    outside = build("-", stdin=tar(Dockerfile=f"-> {secret}", f="f"))
    assert outside.code == 2
    assert "inlay: there is no Dockerfile in the archive on standard input; name" in outside.err


@pytest.mark.parametrize("who", ["root", "user"])
def test_archives_that_unpack_to_more_than_they_can_are_stopped(
    inlay: Callable[..., Any], users: Callable[..., User], web: Web, tmp_path: Path, who: str
) -> None:
    huge = tarfile.TarInfo("huge")
    huge.size = 1 << 44
    bomb = gzip.compress(
        tar(Dockerfile="FROM scratch\n")[:1024] + huge.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)
    )
    web.pages["/ctx"] = Page(bomb)
    run = inlay if who == "root" else users().inlay
    store = ("--root", str(tmp_path / "store")) if who == "root" else ()
    for context in (f"{web.url}/ctx", "-"):
        done = run("build", *store, context, stdin=bomb if context == "-" else b"")
        assert done.code == 1
        said = done.err.splitlines()[-1]
        assert said.startswith("inlay: [internal] unpack build context: the archive unpacks to more than "), (
            said
        )


def test_time_is_that_of_the_context(
    inlay: Callable[..., Any], server: GitServer, repository: Repository, web: Web, tmp_path: Path
) -> None:
    web.pages["/ctx"] = Page(tar(Dockerfile=DOCKERFILE, f="f"))
    contexts = {f"{server.url}/repo.git": "2023-11-14T22:13:20Z", f"{web.url}/ctx": "2020-09-13T12:26:40Z"}
    for url, created in contexts.items():
        digests = []
        for store in ("one", "two"):
            image = tmp_path / store / created
            done = inlay(
                "build", "--root", str(tmp_path / store / "s"), "-o", f"type=oci,dest={image},tar=false",
                "--build-arg", "SOURCE_DATE_EPOCH=context", url,
            )  # fmt: skip
            assert done.code == 0, done.err
            config = config_of(image)
            assert {config["created"], *(entry["created"] for entry in config["history"])} == {created}
            digests.append(json.loads((image / "index.json").read_text())["manifests"][0]["digest"])
        assert digests[0] == digests[1]


def config_of(layout: Path) -> dict[str, Any]:
    def blob(digest: str) -> Any:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())

    index = json.loads((layout / "index.json").read_text())
    return blob(blob(index["manifests"][0]["digest"])["config"]["digest"])  # type: ignore[no-any-return]


def test_named_contexts_of_git_and_the_web(
    build: Callable[..., Any], server: GitServer, repository: Repository, web: Web, tmp_path: Path
) -> None:
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx/Dockerfile").write_text(
        "FROM repo AS r\nCOPY --from=page context /page\nFROM scratch\nCOPY --from=repo sub/f /a\n"
        "COPY --from=r /page /b\nCOPY --from=folder g /c\nCOPY --from=dockerfile g /d\n"
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/g").write_text("g\n")
    web.pages["/page"] = Page(b"page\n")
    named = {
        "repo": f"{server.url}/repo.git",
        "page": f"{web.url}/page",
        "folder": f"{tmp_path}/folder",
        "dockerfile": f"{tmp_path}/folder",
    }
    flags = [part for name, place in named.items() for part in ("--build-context", f"{name}={place}")]
    done = build(*flags, str(tmp_path / "ctx"))
    assert done.code == 0, done.err
    assert out(tmp_path) == {"a": "of sub\n", "b": "page\n", "c": "g\n", "d": "g\n"}
    assert steps_cached(build(*flags, str(tmp_path / "ctx"))) == 5


def test_contexts_can_be_looked_at_without_building(
    inlay: Callable[..., Any], server: GitServer, repository: Repository, web: Web, tmp_path: Path
) -> None:
    web.pages["/ctx"] = Page(gzip.compress(tar(Dockerfile="FROM scratch AS named\n")))
    root = ("--root", str(tmp_path / "s"))
    assert "named" in inlay("build", *root, "--call", "targets", f"{web.url}/ctx").out
    assert inlay("build", *root, "--check", f"{server.url}/repo.git").code == 0
    dumped = inlay("debug", "llb", *root, f"{server.url}/repo.git")
    assert dumped.code == 0, dumped.err
    assert "git.fullurl" in dumped.out
    piped = inlay("build", *root, "--call", "targets", "-", stdin=tar(Dockerfile="FROM scratch AS piped\n"))
    assert "piped" in piped.out
