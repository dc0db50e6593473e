"""Bare repositories in the store, one for each remote: what was fetched once is not fetched again.

    root/git/<digest of the remote>         the repository; refs/inlay/<id> holds each object that is whole
    root/git/<digest of the remote>.lock    locked, exclusively, by whoever fetches or checks out

Nothing in it tells the remote's URL or how to be let in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time

from inlay.digest import Digest
from inlay.errors import SourceError
from inlay.sources.gitcli import GitError
from inlay.trees.rooted import remove_tree
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inlay.sources.gitcli import Git

FETCH_QUIET_S = 300.0
_MANY_PACKS = 50
_DAMAGE = (
    "bad object",
    "corrupt",
    "inflate",
    "loose object",
    "missing",
    "not a git repository",
    "packfile",
    "unable to read",
    "unable to parse",
    "unable to find",
)
_SHALLOW = ("--depth", "shallow")
_HIDDEN = ("not our ref", "unadvertised object")


class Mirror:
    """The repository of one remote, while it is locked."""

    def __init__(self, path: str, git: Git, remote: str) -> None:
        self.path = path
        self._git = git
        self._settings = (("remote.origin.url", remote),)

    def run(self, *arguments: str, quiet_s: float = 0.0) -> bytes:
        """Run git in the repository."""
        return self._git.run(*arguments, git_dir=self.path, settings=self._settings, quiet_s=quiet_s)

    def begin(self, object_id: str) -> None:
        """Make sure that the repository is there, and not in the middle of something that was killed."""
        if os.path.exists(f"{self.path}/HEAD"):
            for name in ("shallow.lock", "config.lock", "HEAD.lock", "packed-refs.lock", "FETCH_HEAD"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.path}/{name}")
            for pack in self._packs("tmp_"):
                os.unlink(pack)
            return
        self.reset()
        unfinished = f"{self.path}.new"
        form = ["--object-format=sha256"] if len(object_id) == 64 else []
        self._git.run("init", "-q", "--bare", "--template=", *form, unfinished)
        os.rename(unfinished, self.path)

    def reset(self) -> None:
        """Forget everything."""
        for path in (self.path, f"{self.path}.new"):
            if os.path.lexists(path):
                remove_tree(path)

    def has(self, object_id: str) -> bool:
        """Whether the object, and the tree of the commit that it leads to, is here as a whole."""
        try:
            self.run("rev-parse", "--quiet", "--verify", f"refs/inlay/{object_id}^{{commit}}")
        except GitError:
            return False
        return True

    def fetch(self, object_id: str, *, may_search: bool) -> None:
        """Fetch a commit or tag by its id. With `may_search` the whole history is fetched where the remote gives
        out tips only. Raises `GitError`."""
        wanted = f"+{object_id}:refs/inlay/{object_id}"
        try:
            self._fetch("--depth=1", "--no-tags", "origin", wanted)
            return
        except GitError as error:
            said = error.said
            if not may_search and not any(word in said for word in _SHALLOW):
                raise
            if not any(word in said for word in (*_SHALLOW, *_HIDDEN)):
                raise
        if any(word in said for word in _SHALLOW):
            try:
                self._fetch("--no-tags", "origin", wanted)
                return
            except GitError as error:
                if not may_search or not any(word in error.said for word in _HIDDEN):
                    raise
        whole = ["--unshallow"] if os.path.exists(f"{self.path}/shallow") else []
        self._fetch(
            *whole, "--no-tags", "origin", "+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"
        )
        try:
            self.run("update-ref", f"refs/inlay/{object_id}", object_id)
        except GitError:
            raise GitError(f"no branch and no tag has {object_id}") from None

    def tidy(self) -> None:
        """Make one pack of very many."""
        if len(self._packs("pack-")) > 2 * _MANY_PACKS:
            self.run("repack", "-a", "-d", "-q", quiet_s=FETCH_QUIET_S)

    def _packs(self, prefix: str) -> list[str]:
        folder = f"{self.path}/objects/pack"
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return [f"{folder}/{name}" for name in names if name.startswith(prefix)]

    def _fetch(self, *arguments: str) -> None:
        self.run(
            "fetch", "--progress", "--no-write-fetch-head", "--force", "--no-recurse-submodules", *arguments,
            quiet_s=FETCH_QUIET_S,
        )  # fmt: skip

    def lend_objects(self, git_dir: str) -> None:
        """Let another repository, a new one, read the objects of this one."""
        os.makedirs(f"{git_dir}/objects/info", exist_ok=True)
        with open(f"{git_dir}/objects/info/alternates", "w", encoding="utf-8") as file:
            file.write(f"{self.path}/objects\n")
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{self.path}/shallow", f"{git_dir}/shallow")


@contextlib.contextmanager
def open_mirror(root: str, remote: str, git: Git, url: str) -> Iterator[Mirror]:
    """Lock the repository of `remote`, whose URL for git is `url`."""
    folder, name = f"{root}/git", Digest.of(remote.encode(errors="surrogateescape")).hex[:32]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(f"{folder}/{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for(lock, git)
        yield Mirror(f"{folder}/{name}", git, url)
    finally:
        os.close(lock)


def _wait_for(lock: int, git: Git) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                raise SourceError(f"cannot lock a repository of the store: {error.strerror}") from error
        git.running.check()
        time.sleep(0.05)


def is_damage(error: GitError) -> bool:
    """Whether it may be the mirror's own fault, so that making it anew can help."""
    said = error.said.lower()
    return any(word in said for word in _DAMAGE)
