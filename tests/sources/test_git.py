"""Git sources against real repositories on loopback: what is looked up, fetched, written, refused."""

from __future__ import annotations

import base64
import os
import re
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitserver import GitServer, Repository
from inlay.errors import SolveError, SourceError
from inlay.llb.ops import SourceOp
from inlay.llb.source_keys import source_digest
from inlay.registry.transport import Settings, Transport
from inlay.snapshot.native import Native
from inlay.sources import gitcli
from inlay.sources import mirror as mirror_module
from inlay.sources.git import Found, GitRemotes, GitSource, GitTree, choose_ref
from inlay.sources.gitaccess import GitAccess
from inlay.tasks import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inlay.llb.ops import SecretOption


class Keys:
    """Secrets by name, and an agent's socket."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}

    def value(self, name: str) -> bytes | None:
        return self.secrets.get(name)

    def agent(self, option: SecretOption) -> None:
        raise SolveError(f"ssh {option.id}: not given; pass --ssh {option.id}")


class Builds:
    """One store, and builds of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keys = Keys()
        self.snapshotter = Native(f"{root}/snapshots")
        self.transport = Transport(Settings(environment={}), lambda host: None)

    def remotes(self) -> GitRemotes:
        access = GitAccess(self.keys, lambda: self.transport)
        return GitRemotes(str(self.root), lambda: self.snapshotter, access)

    def source(
        self, url: str, wanted: str = "", remotes: GitRemotes | None = None, **attrs: str
    ) -> GitSource:
        """The source of a new build; `wanted` is `ref:subdir`."""
        return GitSource(op_of(url, wanted, **attrs), remotes or self.remotes(), no_refs)

    def files(self, url: str, wanted: str = "", **attrs: str) -> dict[str, str]:
        """What a new build checks out."""
        top = Path(self.tree(url, wanted, **attrs))
        return {
            str(path.relative_to(top)): path.read_text()
            for path in sorted(top.rglob("*"))
            if path.is_file() and not path.is_symlink() and ".git/" not in str(path.relative_to(top))
        }

    def tree(self, url: str, wanted: str = "", **attrs: str) -> str:
        return self.snapshotter.upper(self.source(url, wanted, **attrs).check_out())


def no_refs() -> object:
    raise AssertionError


def op_of(url: str, wanted: str = "", **attrs: str) -> SourceOp:
    place = re.sub(r"^[a-z]+://(?:[^/]*@)?", "", url)
    pairs = {
        "git.fullurl": url,
        "git.authheadersecret": "GIT_AUTH_HEADER",
        "git.authtokensecret": "GIT_AUTH_TOKEN",
        **{f"git.{name}": text for name, text in attrs.items()},
    }
    return SourceOp(f"git://{place}{'#' if wanted else ''}{wanted}", tuple(sorted(pairs.items())))


@pytest.fixture
def builds(tmp_path: Path) -> Iterator[Builds]:
    made = Builds(tmp_path / "store")
    yield made
    made.transport.close()


def test_the_default_branch_a_branch_a_tag_and_a_commit(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    url, first = f"{server.url}/repo.git", repository.git("rev-parse", "HEAD")
    repository.git("tag", "v1")
    repository.git("tag", "-a", "-m", "x", "v1a")
    repository.push("refs/tags/v1", "refs/tags/v1a")
    repository.commit("dev", f="two\n")
    one, two = {"f": "one\n", "sub/s": "sub\n"}, {"f": "two\n", "sub/s": "sub\n"}
    assert builds.files(url) == one
    for ref in ("main", "heads/main", "refs/heads/main", "v1", "tags/v1", "v1a", "refs/tags/v1a", first):
        assert builds.files(url, ref) == one, ref
    assert builds.files(url, "dev") == two
    assert builds.files(url, "main:sub") == builds.files(url, ":sub") == {"s": "sub\n"}


def test_keys_are_those_of_buildkit(builds: Builds, server: GitServer, repository: Repository) -> None:
    url, commit = f"{server.url}/repo.git", repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "-m", "x", "v1a")
    repository.push("refs/tags/v1a")
    tag = repository.git("rev-parse", "v1a")

    def key(wanted: str = "", **attrs: str) -> str:
        (digest,) = run(builds.source(url, wanted, **attrs).digests())
        return digest

    assert key() == key("main") == key("v1a") == key(commit) == source_digest(commit)
    assert key("main:sub") == source_digest(f"{commit}:sub")
    assert key(keepgitdir="true") == source_digest(f"{commit}.git#refs/heads/main")
    assert key("v1a", keepgitdir="true") == source_digest(f"{tag}.git#refs/tags/v1a")
    assert key(commit, keepgitdir="true") == source_digest(f"{commit}.git#{commit}")
    assert key(skipsubmodules="true") == source_digest(f"{commit}(skip-submodules)")
    assert key(mtime="commit") == source_digest(f"{commit}(mtime=commit)")
    assert key(mtime="checkout") == source_digest(commit)
    assert key("main", fetchbycommit="true", checksum=commit) == source_digest(commit)


def test_modes_owner_and_links(builds: Builds, server: GitServer, repository: Repository) -> None:
    (repository.work / "run").write_text("#!/bin/sh\n")
    (repository.work / "run").chmod(0o755)
    (repository.work / "link").symlink_to("/etc/passwd")
    (repository.work / "f").chmod(0o600)
    repository.commit()
    before = os.umask(0o077)
    try:
        top = Path(builds.tree(f"{server.url}/repo.git"))
    finally:
        os.umask(before)
    looks = {path.name: oct(stat.S_IMODE(path.lstat().st_mode)) for path in [top, *top.iterdir()]}
    assert {looks[name] for name in ("fs", "sub", "run")} == {"0o755"}
    assert looks["f"] == "0o644"
    assert os.readlink(top / "link") == "/etc/passwd"
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in top.rglob("*")} == {
        (os.getuid(), os.getgid())
    }


def test_an_unchanged_commit_is_not_fetched_again(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    url, commit = f"{server.url}/repo.git", repository.git("rev-parse", "HEAD")
    builds.files(url, "main")
    server.requests.clear()
    assert builds.files(url, commit)["f"] == "one\n"
    assert server.requests == []
    assert builds.files(url, "main")["f"] == "one\n"
    assert server.requests == ["GET /repo.git/info/refs", "POST /repo.git/git-upload-pack"]  # ls-remote
    server.close()
    assert builds.files(url, commit)["f"] == "one\n"


def test_a_branch_that_moved_is_noticed_even_where_its_history_was_rewritten(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    url = f"{server.url}/repo.git"
    assert builds.files(url, "main")["f"] == "one\n"
    repository.commit(f="two\n")
    assert builds.files(url, "main")["f"] == "two\n"
    repository.git("commit", "-q", "--amend", "-m", "other")
    repository.commit(f="three\n")
    assert builds.files(url, "main")["f"] == "three\n"
    repository.git("tag", "--force", "main/sub", "HEAD")
    repository.push("refs/tags/main/sub")
    assert builds.files(url, "main/sub")["f"] == "three\n"


def test_a_build_takes_the_same_commit_for_a_ref_everywhere(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    remotes, url = builds.remotes(), f"{server.url}/repo.git"
    first = builds.source(url, "main", remotes).find()
    repository.commit(f="two\n")
    assert builds.source(url, "main:sub", remotes).find() == first
    assert builds.source(url, "main").find() != first


@pytest.mark.parametrize("kind", ["smart", "old", "dumb"])
def test_a_commit_that_is_no_tip_is_found(
    builds: Builds, server: GitServer, repository: Repository, kind: str
) -> None:
    url, first = f"{server.url}/repo.git", repository.git("rev-parse", "HEAD")
    repository.commit(f="two\n")
    server.old, server.dumb = kind == "old", kind == "dumb"
    assert builds.files(url)["f"] == "two\n"
    assert builds.files(url, first)["f"] == "one\n"


def test_what_is_not_there_is_an_error(builds: Builds, server: GitServer, repository: Repository) -> None:
    url = f"{server.url}/repo.git"
    with pytest.raises(SourceError, match="has no ref nowhere"):
        builds.files(url, "nowhere")
    with pytest.raises(SourceError, match=r"no branch and no tag has|not our ref"):
        builds.files(url, "1" * 40)
    with pytest.raises(SourceError, match="is no commit"):
        builds.files(url, repository.git("rev-parse", "HEAD^{tree}"))
    with pytest.raises(SourceError, match=r"repository 'http.*not found"):
        builds.files(f"{server.url}/other.git")
    assert os.listdir(f"{builds.root}/snapshots/new") == []


@pytest.mark.parametrize("subdir", ["nowhere", "f", "link", "link/x", "f/x"])
def test_a_subdir_is_a_folder_of_the_repository(
    builds: Builds, server: GitServer, repository: Repository, subdir: str
) -> None:
    (repository.work / "link").symlink_to("/etc")
    repository.commit()
    with pytest.raises(SourceError, match="folder"):
        builds.files(f"{server.url}/repo.git", f"main:{subdir}")


def test_a_checksum_may_be_of_the_commit_or_of_the_tag(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    url, commit = f"{server.url}/repo.git", repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "-m", "x", "v1a")
    repository.push("refs/tags/v1a")
    for checksum in (commit, commit[:7], repository.git("rev-parse", "v1a")):
        assert builds.files(url, "v1a", checksum=checksum)["f"] == "one\n"
    for ref in ("v1a", "main", commit):
        with pytest.raises(SourceError, match=f"expected checksum to match abc, got {commit}|or {commit}"):
            builds.files(url, ref, checksum="abc")


def test_the_git_folder_is_kept_where_asked_for(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    repository.git("tag", "-a", "-m", "x", "v1a")
    repository.push("refs/tags/v1a")
    url = f"http://user:password@{server.host}/repo.git"
    for ref, name in (("main", "refs/heads/main"), ("v1a", "refs/tags/v1a"), ("", "refs/heads/main")):
        top = builds.tree(url, ref, keepgitdir="true")
        show = repository.git("--git-dir", f"{top}/.git", "show-ref")
        assert show.split()[1] == name
        assert repository.git("--git-dir", f"{top}/.git", "--work-tree", top, "status", "--porcelain") == ""
        config = Path(top, ".git/config").read_text()
        assert f"url = {server.url}/repo.git" in config
        assert "password" not in config
        assert str(builds.root) not in config
    top = builds.tree(url, repository.git("rev-parse", "HEAD"), keepgitdir="true")
    assert Path(top, ".git/HEAD").read_text().strip() == repository.git("rev-parse", "HEAD")


def test_times_are_those_of_the_commit_where_asked_for(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    repository.git("tag", "-a", "-m", "x", "v1a", time=1_800_000_000)
    repository.push("refs/tags/v1a")
    source = builds.source(f"{server.url}/repo.git", "v1a", mtime="commit")
    assert source.time() == 1_700_000_000
    top = Path(builds.snapshotter.upper(source.check_out()))
    assert {int(path.lstat().st_mtime) for path in [top, *top.rglob("*")]} == {1_700_000_000}


def test_submodules_are_part_of_the_tree(builds: Builds, server: GitServer, repository: Repository) -> None:
    inner, innermost = Repository(server.folder, "inner"), Repository(server.folder, "innermost")
    innermost.commit(i="innermost\n")
    inner.git("submodule", "add", "-q", "../innermost.git", "deep")
    inner.commit(g="inner\n")
    repository.git("submodule", "add", "-q", str(inner.bare), "by-path")
    repository.git("config", "-f", ".gitmodules", "submodule.by-path.url", "../inner.git")
    repository.commit()
    url = f"{server.url}/repo.git"
    files = builds.files(url)
    assert (files["by-path/g"], files["by-path/deep/i"]) == ("inner\n", "innermost\n")
    assert not [path for path in Path(builds.tree(url)).rglob("*") if path.name == ".git"]
    skipped = Path(builds.tree(url, skipsubmodules="true"))
    assert list((skipped / "by-path").iterdir()) == []
    assert builds.files(url, "main:by-path")["g"] == "inner\n"


@pytest.mark.parametrize(
    "url", ["{path}", "file://{path}", "ext::sh -c touch% {mark}", "--upload-pack=touch {mark}"]
)
def test_submodules_cannot_name_what_is_on_this_machine(
    builds: Builds, server: GitServer, repository: Repository, tmp_path: Path, url: str
) -> None:
    inner = Repository(tmp_path, "inner")
    inner.commit(g="inner\n")
    mark = tmp_path / "mark"
    repository.git("submodule", "add", "-q", str(inner.bare), "m")
    evil = url.format(path=inner.bare, mark=mark)
    repository.git("config", "-f", ".gitmodules", "submodule.m.url", evil)
    repository.commit()
    with pytest.raises(SourceError, match="git failed"):
        builds.files(f"{server.url}/repo.git")
    assert not mark.exists()


@pytest.mark.parametrize(
    "secrets",
    [
        {"GIT_AUTH_TOKEN": "t0ken"},
        {"GIT_AUTH_TOKEN.{host}": "t0ken", "GIT_AUTH_TOKEN": "wrong"},
        {"GIT_AUTH_HEADER": "Basic {basic}", "GIT_AUTH_TOKEN": "wrong"},
        {"GIT_AUTH_HEADER.{host}": "Basic {basic}", "GIT_AUTH_TOKEN.{host}": "wrong"},
    ],
)
def test_secrets_let_git_in(
    builds: Builds, server: GitServer, repository: Repository, secrets: dict[str, str]
) -> None:
    basic = base64.b64encode(b"x-access-token:t0ken").decode()
    server.password = f"Basic {basic}"
    for name, text in secrets.items():
        builds.keys.secrets[name.format(host=server.host)] = text.format(basic=basic).encode()
    assert builds.files(f"{server.url}/repo.git")["f"] == "one\n"


def test_a_password_in_the_url_lets_in_and_is_left_nowhere(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    server.password = "Basic " + base64.b64encode(b"user:pa:ss w0rd").decode()
    url = f"http://user:pa:ss%20w0rd@{server.host}/repo.git"
    assert builds.files(url)["f"] == "one\n"
    assert builds.files(url)["f"] == "one\n"
    with pytest.raises(SourceError) as caught:
        builds.files(url, "nowhere")
    kept = b"".join(path.read_bytes() for path in builds.root.rglob("*") if path.is_file())
    assert not [word for word in ("w0rd", "pa:ss") if word in str(caught.value) or word.encode() in kept]


def test_history_names_the_branch_and_hides_who_asked(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    title = f"git snapshot for {server.url}/repo.git#main"
    assert builds.source(f"{server.url}/repo.git").title() == title
    assert builds.source(f"{server.url}/repo.git", "main").title() == title
    for login, hidden in (("u:p@", "xxxxx:xxxxx@"), ("u@", "xxxxx@"), (":p@", ":xxxxx@")):
        source = builds.source(f"http://{login}{server.host}/repo.git", "v1")
        assert source.title() == f"git snapshot for http://{hidden}{server.host}/repo.git#v1"


def test_wrong_secrets_are_not_repeated(builds: Builds, server: GitServer, repository: Repository) -> None:
    server.password = "Basic right"
    builds.keys.secrets["GIT_AUTH_TOKEN"] = b"wr0ngt0ken"
    with pytest.raises(SourceError) as caught:
        builds.files(f"{server.url}/repo.git")
    assert "the remote refuses access" in str(caught.value)
    assert "wr0ngt0ken" not in str(caught.value)


def test_secrets_stay_with_their_server_when_it_redirects(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    builds.keys.secrets["GIT_AUTH_TOKEN"] = b"t0ken"
    other = GitServer(server.folder)
    try:
        server.moved["/moved.git"] = f"{other.url}/repo.git"
        assert builds.files(f"{server.url}/moved.git")["f"] == "one\n"
        assert set(other.authorizations) == {None}
        assert len(other.requests) > 2
    finally:
        other.close()


def test_secrets_go_along_where_a_repository_has_a_new_name(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    server.password = "Basic " + base64.b64encode(b"x-access-token:t0ken").decode()
    server.moved["/old.git"] = "/repo.git"
    builds.keys.secrets["GIT_AUTH_TOKEN"] = b"t0ken"
    assert builds.files(f"{server.url}/old.git")["f"] == "one\n"


def test_submodules_elsewhere_get_no_secrets(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    other = GitServer(server.folder)
    try:
        Repository(server.folder, "inner").commit(g="inner\n")
        repository.git("submodule", "add", "-q", str(server.folder / "inner.git"), "m")
        repository.git("config", "-f", ".gitmodules", "submodule.m.url", f"{other.url}/inner.git")
        repository.commit()
        builds.keys.secrets["GIT_AUTH_TOKEN"] = b"t0ken"
        assert builds.files(f"{server.url}/repo.git")["m/g"] == "inner\n"
        assert set(other.authorizations) == {None}
    finally:
        other.close()


def test_the_configuration_of_the_user_is_not_used(
    builds: Builds, server: GitServer, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (hooks / "post-checkout").chmod(0o755)
    (tmp_path / ".gitconfig").write_text(
        f'[core]\nhooksPath = {hooks}\n[url "http://127.0.0.1:1/"]\ninsteadOf = {server.url}/\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert builds.files(f"{server.url}/repo.git")["f"] == "one\n"
    assert not mark.exists()


@pytest.mark.parametrize(
    ("remote", "wanted"),
    [
        ("--upload-pack=touch /tmp/x", ""),
        ("-u", ""),
        ("ext::sh -c touch% /tmp/x", ""),
        ("file:///etc", ""),
        ("ssh://-oProxyCommand=touch/x", ""),
        ("-git@host:x", ""),
        ("git@-oProxyCommand=x:y", ""),
        ("http://host/a\nb", ""),
        ("https://host/x.git", "--upload-pack=x"),
        ("https://host/x.git", "a b"),
        ("https://host/x.git", "-x:sub"),
    ],
)
def test_options_are_no_urls_and_no_refs(
    builds: Builds, remote: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(gitcli.subprocess, "Popen", lambda *command, **_: started.append(command))
    try:
        tree = builds.source(remote, wanted).tree
    except SourceError:
        pass
    else:
        assert tree.remote.startswith("https://")  # as BuildKit takes what has no protocol
    assert not started


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_text_becomes_an_option(remote: str, ref: str) -> None:
    try:
        tree = GitTree.of(SourceOp(f"git://x#{ref}", (("git.fullurl", remote),)))
    except SourceError:
        return
    assert not tree.ref.startswith("-")
    assert re.match(r"(?i)(https?|git|ssh)://[^-]|[a-z0-9_]+[a-z0-9_-]*@[^-]", tree.remote)


def test_a_mirror_that_is_damaged_is_made_anew(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    url = f"{server.url}/repo.git"
    builds.files(url)
    (mirror,) = (path for path in (builds.root / "git").iterdir() if path.is_dir())
    for path in mirror.rglob("*.pack"):
        path.chmod(0o600)
        path.write_bytes(b"rubbish")
    assert builds.files(url)["f"] == "one\n"
    (mirror / "HEAD").unlink()
    assert builds.files(url)["f"] == "one\n"


def test_locks_that_a_killed_git_left_do_no_harm(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    url = f"{server.url}/repo.git"
    builds.files(url)
    (mirror,) = (path for path in (builds.root / "git").iterdir() if path.is_dir())
    for name in ("shallow.lock", "packed-refs.lock", "HEAD.lock", "objects/pack/tmp_pack_abc"):
        (mirror / name).touch()
    repository.commit(f="two\n")
    assert builds.files(url)["f"] == "two\n"
    assert not [path for path in mirror.rglob("*") if path.name.startswith("tmp_") or path.suffix == ".lock"]


def test_many_fetches_do_not_become_many_packs(
    builds: Builds, server: GitServer, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "_MANY_PACKS", 2)
    commits = [repository.commit(f=f"{number}\n") for number in range(6)]
    for number, commit in enumerate(commits):
        assert builds.files(f"{server.url}/repo.git", commit)["f"] == f"{number}\n"
    assert len(list((builds.root / "git").rglob("*.pack"))) <= 4
    server.close()
    for number, commit in enumerate(commits):
        assert builds.files(f"{server.url}/repo.git", commit)["f"] == f"{number}\n"


def test_builds_side_by_side_share_a_mirror(
    builds: Builds, server: GitServer, repository: Repository
) -> None:
    found: list[str] = []

    def build(ref: str) -> None:
        found.append(builds.files(f"{server.url}/repo.git", ref)["f"])

    threads = [threading.Thread(target=build, args=(ref,)) for ref in ("main", "heads/main", "", "main")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["one\n"] * 4


def test_repositories_of_sha256(builds: Builds, server: GitServer) -> None:
    commit = Repository(server.folder, "long", "sha256").commit(f="long\n")
    url = f"{server.url}/long.git"
    assert len(commit) == 64
    assert builds.files(url, commit) == builds.files(url) == {"f": "long\n"}
    assert builds.files(url, keepgitdir="true") == {"f": "long\n"}


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_server_that_hangs_is_left(
    builds: Builds, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gitcli, "QUIET_S", 0.5)
    with pytest.raises(SourceError, match="no answer for"):
        builds.files(f"git://127.0.0.1:{silent_port}/repo.git")


def test_a_cancelled_build_does_not_wait_for_a_server(builds: Builds, silent_port: int) -> None:
    remotes = builds.remotes()
    source = builds.source(f"git://127.0.0.1:{silent_port}/repo.git", "main", remotes)
    threading.Timer(0.3, remotes.cancel).start()
    started = time.monotonic()
    with pytest.raises(SourceError, match="cancelled"):
        source.find()
    assert time.monotonic() - started < 10


def test_ssh_without_an_agent_says_what_to_pass(builds: Builds) -> None:
    with pytest.raises(SolveError, match="pass --ssh default"):
        builds.files("git@127.0.0.1:repo.git", mountsshsock="default")


@pytest.mark.parametrize(
    ("ref", "chosen"),
    [
        ("main", Found("refs/heads/main", "b", "b")),
        ("heads/main", Found("refs/heads/main", "b", "b")),
        ("refs/heads/main", Found("refs/heads/main", "b", "b")),
        ("both", Found("refs/heads/both", "c", "c")),
        ("tags/both", Found("refs/tags/both", "d", "d")),
        ("v1", Found("refs/tags/v1", "e", "f")),
        ("pull/1/head", Found("refs/pull/1/head", "0", "0")),
        ("refs/tags/v1", Found("refs/tags/v1", "e", "f")),
        ("ain", None),
    ],
)
def test_refs_are_chosen_as_buildkit_does(ref: str, chosen: Found | None) -> None:
    listing = [
        ("a", "refs/remotes/main"),
        ("b", "refs/heads/main"),
        ("c", "refs/heads/both"),
        ("d", "refs/tags/both"),
        ("e", "refs/tags/v1"),
        ("f", "refs/tags/v1^{}"),
        ("0", "refs/pull/1/head"),
    ]
    assert choose_ref(listing, ref) == chosen
