"""`git://` sources: a commit's tree, of any remote that git can speak with (BuildKit: source/git/source.go).

The key is the commit (with what is taken of it), not the URL. A branch or tag is looked up at the remote once in
a build; a commit given in full is not looked up at all.
"""

from __future__ import annotations

import re
import threading

from inlay.errors import SourceError
from inlay.llb.source_keys import git_key, source_digest
from inlay.refs.ref import Ref
from inlay.sources.gitcli import GitError, Running
from inlay.sources.mirror import is_damage, open_mirror
from inlay.tasks import in_thread
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from inlay.llb.ops import SourceOp
    from inlay.refs.store import RefStore
    from inlay.snapshot.snapshotter import LayerDir, Snapshotter
    from inlay.sources.gitaccess import GitAccess
    from inlay.sources.gitcli import Git
    from inlay.sources.mirror import Mirror

    T = TypeVar("T")

_REMOTE = re.compile(
    r"(?:https?|git|ssh)://(?!-)[^\s/?#-][^\s]*\Z|[A-Za-z0-9_][A-Za-z0-9_-]*@(?!-)[A-Za-z0-9.-]+:[^\s]*\Z",
    re.IGNORECASE,
)
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_BRANCH = re.compile(r"ref: (refs/heads/\S+)\s+HEAD")
_COMMITTER = re.compile(rb"^committer .* (-?\d+) [+-]\d{4}$", re.MULTILINE)


class GitTree(NamedTuple):
    """What is wanted of a repository. `ref` empty is the default branch; `checksum` the beginning of an id."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool = False
    skip_submodules: bool = False
    mtime: str = ""
    fetch_by_commit: bool = False

    @classmethod
    def of(cls, op: SourceOp) -> GitTree:
        """Read the attributes of an op. Raises `SourceError` for what git must not get to see."""
        place, _, fragment = op.identifier.partition("://")[2].partition("#")
        ref, _, subdir = fragment.partition(":")
        remote = op.attr("git.fullurl") or place
        if not _REMOTE.match(remote):
            remote = f"https://{remote}"
        tree = cls(
            remote,
            ref,
            subdir.strip("/"),
            op.attr("git.checksum"),
            op.attr("git.keepgitdir") == "true",
            op.attr("git.skipsubmodules") == "true",
            op.attr("git.mtime"),
            op.attr("git.fetchbycommit") == "true",
        )
        tree.check()
        if unknown := [
            name for name, _ in op.attrs if name.startswith(("git.sig", "git.bundle", "git.checkout"))
        ]:
            raise SourceError(f"{tree}: {unknown[0]} is not supported")
        return tree

    def check(self) -> None:
        if not _REMOTE.match(self.remote) or re.search(r"[\0-\x20\x7f]", self.remote):
            raise SourceError(f"{self}: not a URL that git can be given")
        if self.ref.startswith("-") or re.search(r"[\0-\x20\x7f]", self.ref):
            raise SourceError(f"{self}: invalid git ref {self.ref!r:.200}")
        if self.checksum and not re.fullmatch("[0-9a-fA-F]+", self.checksum):
            raise SourceError(f"{self}: invalid checksum {self.checksum!r:.100}, expected a commit's id")
        if self.fetch_by_commit and not is_commit(self.ref) and not is_commit(self.checksum):
            raise SourceError(
                f"{self}: fetch-by-commit needs the whole id of a commit, as ref or as checksum"
            )

    def __str__(self) -> str:
        """For messages: without credentials."""
        remote = re.sub(r"(://)[^/@]*@", r"\1", self.remote)
        return f"{remote}#{self.ref}" if self.ref else remote


class Found(NamedTuple):
    """What a ref was found to be: its full name, the object (a commit or tag) and the commit."""

    ref: str
    object_id: str
    commit: str


def _redacted(remote: str) -> str:
    """A URL with user and password made unreadable, as BuildKit writes it into the history of images."""
    return re.sub(r"(?<=://)([^/@:]*)(:[^/@]*)?(?=@)", _masked, remote)


def _masked(login: re.Match[str]) -> str:
    user, password = ("xxxxx" if part else part or "" for part in login.groups())
    return f"{user}:{password}" if login[2] is not None else user


def is_commit(text: str) -> bool:
    return _COMMIT.match(text) is not None


def choose_ref(listing: Iterable[tuple[str, str]], ref: str) -> Found | None:
    """What `ref` means among (id, full name)s: `refs/<ref>`, then a branch, then a tag, of which an annotated one
    leads to its commit."""
    ids = {name: object_id for object_id, name in listing}
    partial = "refs/" + ref.removeprefix("refs/")
    branch = "refs/heads/" + ref.removeprefix("refs/heads/")
    tag = "refs/tags/" + ref.removeprefix("refs/tags/")
    for name in (partial, branch, tag):
        if name in ids:
            peeled = ids.get(f"{name}^{{}}", "") if name == tag else ""
            return Found(name, ids[name], peeled or ids[name])
    return None


class GitRemotes:
    """What one build has learned of remotes, so that a ref is the same commit wherever the build names it."""

    def __init__(self, root: str, snapshotter: Callable[[], Snapshotter], access: GitAccess) -> None:
        self.root = root
        self.snapshotter = snapshotter
        self.access = access
        self._lock = threading.Lock()
        self._each: dict[tuple[str, str], threading.Lock] = {}
        self._found: dict[tuple[str, str], Found] = {}
        self._running: list[Running] = []

    def cancel(self) -> None:
        """End what all sources do."""
        for running in self._running:
            running.cancel()

    def start(self) -> Running:
        self._running.append(Running())
        return self._running[-1]

    def find(self, tree: GitTree, look_up: Callable[[], Found]) -> Found:
        """What the ref of `tree` is; `look_up` is called for the first one who asks."""
        name = (tree.remote, tree.ref)
        with self._lock:
            each = self._each.setdefault(name, threading.Lock())
        with each:
            if name not in self._found:
                self._found[name] = look_up()
        return self._found[name]


class GitSource:
    """One op."""

    def __init__(self, op: SourceOp, remotes: GitRemotes, refs: Callable[[], RefStore]) -> None:
        self._op = op
        self.tree = GitTree.of(op)
        self._remotes = remotes
        self._refs = refs
        self._running = remotes.start()

    async def digests(self) -> tuple[str, ...]:
        found = await in_thread(self.find, abort=self._running.cancel)
        tree = self.tree
        key = git_key(
            found.object_id if tree.keep_git_dir else found.commit,
            found.ref,
            subdir=tree.subdir,
            keep_git_dir=tree.keep_git_dir,
            skip_submodules=tree.skip_submodules,
            mtime=tree.mtime,
        )
        return (source_digest(key),)

    async def fetch(self) -> Ref:
        directory = await in_thread(self.check_out, abort=self._running.cancel)
        title = await in_thread(self.title, abort=self._running.cancel)
        return Ref((self._refs().layer_of(directory, description=title),))

    def find(self) -> Found:
        """What is wanted, by the ids of commit and object. Blocks; raises `SourceError`."""
        tree = self.tree
        if is_commit(tree.ref):
            if not tree.ref.startswith(tree.checksum):
                raise SourceError(f"{tree}: expected checksum to match {tree.checksum}, got {tree.ref}")
            return Found(tree.ref, tree.ref, tree.ref)
        if tree.fetch_by_commit:
            name = tree.ref if not tree.ref or tree.ref.startswith("refs/") else f"refs/heads/{tree.ref}"
            return Found(name or tree.checksum, tree.checksum, tree.checksum)
        found = self._remotes.find(tree, lambda: self._talk(self._look_up))
        if not found.object_id.startswith(tree.checksum) and not found.commit.startswith(tree.checksum):
            got = " or ".join(dict.fromkeys((found.object_id, found.commit)))
            raise SourceError(f"{tree}: expected checksum to match {tree.checksum}, got {got}")
        return found

    def check_out(self) -> LayerDir:
        """The files, as a layer directory. Blocks; raises `SourceError`."""
        from inlay.sources.checkout import check_out

        found = self.find()

        def work(git: Git, remote: str) -> LayerDir:
            with (
                open_mirror(self._remotes.root, self.tree.remote, git, remote) as mirror,
                self._remotes.snapshotter().receive() as incoming,
            ):
                self._bring(mirror, found)
                check_out(git, mirror, self.tree, found, incoming, remote)
                return incoming.commit()

        return self._talk(work)

    def title(self) -> str:
        """What history calls the checkout. Blocks; raises `SourceError`."""
        ref = self.tree.ref or self.find().ref.removeprefix("refs/heads/")
        return f"git snapshot for {_redacted(self.tree.remote)}#{ref}"

    def time(self) -> int:
        """When the commit was made, in seconds since the epoch. Blocks; raises `SourceError`."""
        found = self.find()

        def work(git: Git, remote: str) -> int:
            with open_mirror(self._remotes.root, self.tree.remote, git, remote) as mirror:
                self._bring(mirror, found)
                return commit_time(
                    mirror.run("cat-file", "commit", f"refs/inlay/{found.object_id}^{{commit}}")
                )

        return self._talk(work)

    # -- talking to the remote -----------------------------------------------------------------------

    def _talk(self, work: Callable[[Git, str], T]) -> T:
        """Do `work` with git and the URL that it is to use. What goes wrong is told with the remote."""
        access = self._remotes.access
        try:
            with access.session(self.tree.remote, self._op, self._running) as (git, remote):
                try:
                    return work(git, remote)
                except GitError as error:
                    moved = access.follow(git, remote, error)
                    if moved is None:
                        raise
                return work(*moved)
        except GitError as error:
            raise SourceError(f"{self.tree}: git failed: {_sentence(error.said)}") from error
        except OSError as error:
            raise SourceError(f"{self.tree}: {(error.strerror or str(error)).lower()}") from error

    def _look_up(self, git: Git, remote: str) -> Found:
        settings = (("remote.origin.url", remote),)
        ref = self.tree.ref
        if not ref:
            said = git.run("ls-remote", "--symref", "origin", "HEAD", settings=settings).decode(
                errors="replace"
            )
            match = _BRANCH.search(said)
            if match is None:
                raise SourceError(f"{self.tree}: the repository has no default branch; name one with #BRANCH")
            ref = match[1]
        lines = git.run("ls-remote", "origin", ref, f"{ref}^{{}}", settings=settings).decode(errors="replace")
        listing = [line.partition("\t")[::2] for line in lines.splitlines()]
        found = choose_ref(((object_id, name) for object_id, name in listing if is_commit(object_id)), ref)
        if found is None:
            raise SourceError(f"{self.tree}: the repository has no ref {ref}")
        return found

    def _bring(self, mirror: Mirror, found: Found) -> None:
        """Have the object in the mirror, which is made anew where it is damaged."""
        mirror.begin(found.object_id)
        try:
            if not mirror.has(found.object_id):
                mirror.fetch(found.object_id, may_search=not self.tree.fetch_by_commit)
                mirror.tidy()
        except GitError as error:
            if not is_damage(error):
                raise
            mirror.reset()
            mirror.begin(found.object_id)
            mirror.fetch(found.object_id, may_search=not self.tree.fetch_by_commit)
        if not mirror.has(found.object_id):
            raise SourceError(f"{self.tree}: {found.object_id} is no commit")


def commit_time(commit: bytes) -> int:
    """The committer's time of a commit object."""
    match = _COMMITTER.search(commit.partition(b"\n\n")[0])
    return int(match[1]) if match else 0


_REFUSED = "the remote refuses access; check the URL, or pass the right"
_MEANINGS = (
    ("could not read Username", f"{_REFUSED} --secret id=GIT_AUTH_TOKEN,env=…"),
    ("Authentication failed", f"{_REFUSED} --secret id=GIT_AUTH_TOKEN,env=…"),
    ("error: 401", f"{_REFUSED} --secret id=GIT_AUTH_TOKEN,env=…"),
    ("error: 403", f"{_REFUSED} --secret id=GIT_AUTH_TOKEN,env=…"),
    ("Permission denied (", f"{_REFUSED} --ssh default"),
    (
        "Host key verification failed",
        "the host's key is not the one that is known; if it has a new one, correct ~/.ssh/known_hosts",
    ),
)
"""What git says in some of its many lines, and what that means to who builds."""


def _sentence(said: str) -> str:
    """The lines of git's last words that say what is wrong, as one."""
    for words, meaning in _MEANINGS:
        if words in said:
            return meaning
    lines = [line.strip() for line in re.split(r"[\r\n]+", said)]
    telling = [line for line in lines if line.lower().startswith(("fatal:", "error:", "remote:", "ssh:"))]
    return "; ".join(dict.fromkeys(telling or [line for line in lines if line][-3:])) or "it said nothing"
