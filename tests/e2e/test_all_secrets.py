"""Every kind of secret in one build: none is left in images, caches, the store, what is shown, or errors."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from images import files_with

from gitserver import GitServer, Repository
from web import Page, Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import RunningRegistry
    from ordinary import User
    from running import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.root]

FILE, VARIABLE, WEB, GIT, PROXY = (f"{name}-hush-4711" for name in ("f1le", "v4r", "w3b", "g1t", "pr0xy"))

DOCKERFILE = """FROM scratch AS base
ADD rootfs.tar /
ENV PATH=/bin
FROM base
ADD @WEB@/private /w
ADD @GIT@/repo.git /g
RUN --mount=type=secret,id=file --mount=type=secret,id=var,env=TOKEN --mount=type=ssh,id=keys \\
  --mount=type=cache,target=/cache test -s /run/secrets/file && test -n "$TOKEN$http_proxy" && \\
  test -S $SSH_AUTH_SOCK && cat /w /g/f && touch /cache/x && echo used all && @END@
"""


class Everything(NamedTuple):
    """A builder, servers that want tokens, and the texts that nobody may find below `left`."""

    inlay: Callable[..., Outcome]
    folder: Path
    registry: RunningRegistry
    web: Web
    git: GitServer
    key: Path

    @property
    def left(self) -> Path:
        return self.folder / "left"

    def build(self, end: str, *flags: str, progress: str = "plain", **secrets: str) -> Outcome:
        text = DOCKERFILE.replace("@WEB@", self.web.url).replace("@GIT@", self.git.url).replace("@END@", end)
        (self.folder / "context/Dockerfile").write_text(text)
        given = {"VAR": VARIABLE, "WEB": WEB, "GIT": GIT, **secrets}
        options = {
            "--root": str(self.left / "store"),
            "--progress": progress,
            "--metadata-file": str(self.left / "metadata.json"),
            "--build-arg": f"http_proxy=http://user:{PROXY}@proxy.example",
            "--ssh": f"keys={self.key}",
        }
        named = {"var": "VAR", "HTTP_AUTH_TOKEN_127.0.0.1": "WEB", "GIT_AUTH_TOKEN": "GIT"}
        command = [part for option in options.items() for part in option]
        command += [part for id_, name in named.items() for part in ("--secret", f"id={id_},env={name}")]
        command += ["--secret", f"id=file,src={self.folder}/given/file"]
        environment = {
            **given,
            "TMPDIR": str(self.left / "tmp"),
            "DOCKER_CONFIG": str(self.folder / "given"),
            "NO_PROXY": "127.0.0.1",
        }
        done = self.inlay("build", *command, *flags, str(self.folder / "context"), env=environment)
        (self.left / "said").write_text(done.out + done.err)
        return done

    def traces(self, *others: str) -> list[str]:
        private_key = self.key.read_bytes().splitlines()[4].decode()
        password = self.registry.password
        basic = [f"{self.registry.user}:{password}", f"x-access-token:{GIT}"]
        texts = [FILE, VARIABLE, WEB, GIT, PROXY, password, private_key, *others]
        texts += [base64.b64encode(text.encode()).decode() for text in (*basic, FILE, VARIABLE, WEB)]
        places = (self.left, self.registry.folder)
        return [path for text in texts for place in places for path in files_with(place, text.encode())]


@pytest.fixture(params=["root", "user"])
def everything(
    request: pytest.FixtureRequest, inlay: Callable[..., Any], guarded_registry: RunningRegistry,
    rootfs: Path, tmp_path: Path,
) -> Iterator[Everything]:  # fmt: skip
    for name in ("git", "ssh-agent"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    run, folder = inlay, tmp_path
    if request.param == "user":
        user: User = request.getfixturevalue("users")()
        run, folder = user.inlay, user.home
    for name in ("context", "given", "left", "left/tmp", "served"):
        (folder / name).mkdir()
        os.chmod(folder / name, 0o777)
    shutil.copy(rootfs, folder / "context/rootfs.tar")
    key = folder / "given/key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    os.chown(key, folder.stat().st_uid, folder.stat().st_gid)
    (folder / "given/file").write_text(FILE)
    auth = base64.b64encode(f"{guarded_registry.user}:{guarded_registry.password}".encode()).decode()
    (folder / "given/config.json").write_text(json.dumps({"auths": {guarded_registry.host: {"auth": auth}}}))
    web, git = Web(), GitServer(folder / "served")
    Repository(git.folder, "repo").commit(f="from git\n")
    git.password = "Basic " + base64.b64encode(f"x-access-token:{GIT}".encode()).decode()

    def private(asked: Any, _: object) -> Page:
        right = asked.headers.get("authorization") == f"Bearer {WEB}"
        return Page(b"from the web\n") if right else Page(b"no", 401)

    web.pages["/private"] = private
    yield Everything(run, folder, guarded_registry, web, git, key)
    web.close()
    git.close()


@pytest.mark.parametrize(
    ("everything", "progress"),
    [("root", "plain"), ("root", "tty"), ("user", "plain"), ("user", "rawjson")],
    indirect=["everything"],
)
def test_nothing_is_left_by_builds_that_push_and_by_those_that_fail(
    everything: Everything, progress: str
) -> None:
    name = f"{everything.registry.host}/all-secrets:{os.path.basename(everything.folder)}"
    flags = (
        *("-o", f"type=image,name={name},push=true", "--cache-to", "type=inline,mode=max"),
        *("-o", f"type=oci,tar=false,dest={everything.left}/image"),
        *("--cache-to", f"type=registry,ref={name}-cache,mode=max"),
        *("--cache-to", f"type=local,dest={everything.left}/cache,mode=max"),
    )
    done = everything.build("echo made > /made", *flags, progress=progress)
    assert done.code == 0, done.err
    assert progress == "tty" or "used all" in done.err or base64.b64encode(b"used all\n").decode() in done.err
    assert everything.traces() == []
    failed = everything.build("exit 3", "--explain", progress=progress)
    assert (failed.code, "exit code: 3" in failed.err) == (1, True), failed.err
    assert everything.traces() == []


def test_nothing_is_left_where_servers_refuse(everything: Everything) -> None:
    wrong = "wr0ng-hush-4711"
    for changed in ({"WEB": wrong}, {"GIT": wrong}):
        done = everything.build("true", **changed)
        assert done.code == 1
        assert "Dockerfile:" in done.err
        assert everything.traces(wrong) == []
    (everything.folder / "given/config.json").write_text("{}")
    refused = everything.build("true", "-t", f"{everything.registry.host}/all-secrets:no", "--push")
    assert (refused.code, "docker login" in refused.err) == (1, True), refused.err
    assert everything.traces() == []


def test_what_a_step_itself_keeps_is_found(everything: Everything) -> None:
    """The other tests look in the right places."""
    keep = "cp /run/secrets/file /kept && echo $TOKEN"
    done = everything.build(keep, "-o", f"type=oci,tar=false,dest={everything.left}/image")
    assert done.code == 0, done.err
    assert len(everything.traces()) >= 3
