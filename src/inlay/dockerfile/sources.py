"""Sources that a Dockerfile or its build context names by URL."""

from __future__ import annotations

from inlay.dockerfile.drafts import SourceDraft
from inlay.llb.keys import base_name
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.dockerfile.giturl import GitUrl
    from inlay.llb.graph import Notes


def git_url(text: str) -> GitUrl | None:
    """`parse_git_url`, asked only of what may be a URL: most sources are paths, and need no reader of URLs."""
    if ":" not in text and not text.startswith("github.com/"):
        return None
    from inlay.dockerfile.giturl import parse_git_url

    return parse_git_url(text)


def http_source(url: str, filename: str, notes: Notes, *, checksum: str = "") -> SourceDraft:
    """A download, kept as `filename`."""
    attrs = {"http.filename": filename}
    if checksum:
        attrs["http.checksum"] = checksum
    return SourceDraft(url, attrs, notes)


def http_file_name(url: str) -> str:
    """The name of the file that ADD makes of a download: the last element of the URL's path."""
    from inlay.dockerfile.giturl import url_path

    path = url_path(url)
    name = base_name(path) if path is not None else "/"
    return "__unnamed__" if name in (".", "/") else name


def git_source(
    git: GitUrl, notes: Notes, *, keep_git_dir: bool, checksum: str = "", mtime: str = ""
) -> SourceDraft:
    """A checkout (BuildKit: client/llb/source.go `Git`). Needs no network: ssh host keys are not asked for."""
    identifier = git.identifier
    attrs = {
        "git.fullurl": "https://" + git.remote if git.is_local else git.remote,
        "git.authheadersecret": "GIT_AUTH_HEADER",
        "git.authtokensecret": "GIT_AUTH_TOKEN",
    }
    if keep_git_dir:
        attrs["git.keepgitdir"] = "true"
    if git.is_ssh:
        attrs["git.mountsshsock"] = "default"
    if checksum:
        attrs["git.checksum"] = checksum
    if git.submodules is False:
        attrs["git.skipsubmodules"] = "true"
    if mtime:
        attrs["git.mtime"] = mtime
    if git.fetch_by_commit:
        attrs["git.fetchbycommit"] = "true"
    return SourceDraft(identifier, attrs, notes)
