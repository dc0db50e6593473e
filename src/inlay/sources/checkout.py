"""A commit's files, written out as BuildKit has git write them: 0644 or 0755, owned by whoever builds."""

from __future__ import annotations

import contextlib
import os
import stat

from inlay.errors import SourceError
from inlay.sources.gitaccess import without_userinfo
from inlay.sources.gitcli import NETWORK, GitError
from inlay.sources.mirror import FETCH_QUIET_S
from inlay.trees.rooted import remove_tree
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.snapshot.snapshotter import Incoming
    from inlay.sources.git import Found, GitTree
    from inlay.sources.gitcli import Git
    from inlay.sources.mirror import Mirror


def check_out(git: Git, mirror: Mirror, tree: GitTree, found: Found, incoming: Incoming, remote: str) -> None:
    """Write the files of `found` into `incoming`. `remote` is what URLs of submodules are relative to.

    Raises `GitError`, or `SourceError` for a subdir that is none.
    """
    keep = tree.keep_git_dir and not tree.subdir
    files = f"{incoming.folder}/files" if tree.subdir else incoming.directory
    git_dir = f"{files}/.git" if keep else f"{incoming.folder}/git"
    os.makedirs(files, exist_ok=True)
    form = ["--object-format=sha256"] if len(found.object_id) == 64 else []
    git.run("init", "-q", "--template=", *form, git_dir=git_dir, work_tree=files)
    if keep:
        _fetch_from(mirror, git, tree, found, git_dir, files)
    else:
        mirror.lend_objects(git_dir)
        git.run("checkout", "-q", "--force", "--detach", found.object_id, git_dir=git_dir, work_tree=files)
    if not tree.skip_submodules:
        _update_submodules(git, git_dir, files, remote)
        if not keep:
            _drop_git_files(files)
    if keep:
        _tidy(git, git_dir, files, remote)
    if tree.subdir:
        _move_subdir(files, tree.subdir, incoming.directory)
    if tree.mtime == "commit":
        from inlay.sources.git import commit_time

        commit = mirror.run("cat-file", "commit", f"refs/inlay/{found.object_id}^{{commit}}")
        _set_times(incoming.directory, commit_time(commit))


def _fetch_from(mirror: Mirror, git: Git, tree: GitTree, found: Found, git_dir: str, files: str) -> None:
    """Fetch the one commit into a repository of its own, under the name that it was asked for by."""
    source = f"refs/inlay/{found.object_id}"
    name = tree.ref or found.ref
    if found.ref != found.object_id:
        above = "refs/tags/" if found.commit != found.object_id else "refs/heads/"
        source += f":{name if name.startswith('refs/') else above + name}"
    settings = (("remote.mirror.url", f"file://{mirror.path}"), ("core.logAllRefUpdates", "false"))
    git.run(
        "fetch", "-q", "--update-head-ok", "--depth=1", "--no-tags", "mirror", source,
        git_dir=git_dir, work_tree=files, protocols="file", settings=settings,
    )  # fmt: skip
    git.run(
        "checkout",
        "-q",
        "--force",
        "--detach",
        "FETCH_HEAD",
        git_dir=git_dir,
        work_tree=files,
        settings=settings,
    )
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{git_dir}/FETCH_HEAD")


def _tidy(git: Git, git_dir: str, files: str, remote: str) -> None:
    """Name the remote in the repository that is kept, without credentials."""
    git.run("remote", "add", "origin", without_userinfo(remote), git_dir=git_dir, work_tree=files)


def _update_submodules(git: Git, git_dir: str, files: str, remote: str) -> None:
    arguments = ["submodule", "--quiet", "update", "--init", "--recursive"]
    settings = (("remote.origin.url", remote),)

    def update(*more: str) -> None:
        git.run(
            *arguments, *more,
            git_dir=git_dir, work_tree=files, protocols=NETWORK, settings=settings, quiet_s=FETCH_QUIET_S,
        )  # fmt: skip

    try:
        update("--depth=1")
    except GitError as error:
        if not any(
            word in error.said for word in ("--depth", "shallow", "not our ref", "unadvertised object")
        ):
            raise
        update()


def _drop_git_files(files: str) -> None:
    """Submodules' `.git` files name the repository that the build used: a path of this machine."""
    for folder, _, names in os.walk(files):
        if ".git" in names:
            os.unlink(f"{folder}/.git")


def _move_subdir(files: str, subdir: str, target: str) -> None:
    """Make what is in the folder `subdir` the whole. No link is followed on the way."""
    path = files
    for name in subdir.split("/"):
        path = f"{path}/{name}"
        try:
            is_folder = stat.S_ISDIR(os.lstat(path).st_mode) and name not in ("", ".", "..")
        except (FileNotFoundError, NotADirectoryError):
            raise SourceError(f"the repository has no folder {subdir!r:.200}") from None
        if not is_folder:
            raise SourceError(f"{subdir!r:.200} is no folder of the repository: {name!r:.100} is not one")
    for name in os.listdir(path):
        os.rename(f"{path}/{name}", f"{target}/{name}")
    remove_tree(files)


def _set_times(tree: str, seconds: int) -> None:
    for folder, folders, names in os.walk(tree, topdown=False):
        for name in (*folders, *names):
            os.utime(f"{folder}/{name}", (seconds, seconds), follow_symlinks=False)
    os.utime(tree, (seconds, seconds))
