"""Git repositories by URL, as ADD and build contexts name them.

    parse_git_url("https://github.com/a/b.git#v1:docs")
    # GitUrl(remote="https://github.com/a/b.git", host="github.com", path="/a/b.git", ref="v1", subdir="docs")
    parse_git_url("src/b.git")  # None: a path

Source: BuildKit's frontend/dockerfile/dfgitutil/git_ref.go, util/gitutil/git_url.go, util/sshutil/scpurl.go;
Go's net/url, whose spelling of a URL is hashed.
"""

from __future__ import annotations

import re

from inlay.errors import DockerfileError
from inlay.golang.patterns import join
from inlay.golang.text import quote, valid
from inlay.typing import NamedTuple


class GitUrl(NamedTuple):
    """A repository, and what to take of it.

    `remote` is what git is told, without fragment and query. `checksum` is a commit; a None leaves the
    choice to the default. `is_local` marks `github.com/…`, which is a path to ADD and a URL to contexts.
    """

    remote: str
    host: str
    path: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    mtime: str = ""
    fetch_by_commit: bool = False
    is_local: bool = False
    is_ssh: bool = False

    @property
    def identifier(self) -> str:
        """The name of the source op: the same for all protocols (BuildKit: client/llb/source.go)."""
        subdir = f":{self.subdir}" if self.subdir else ""
        wanted = f"#{self.ref}{subdir}" if self.ref or subdir else ""
        return f"git://{self.host}{join('/', self.path)}{wanted}"


class NotGitError(Exception):
    """A text that names no git repository; says why."""


def parse_git_url(text: str) -> GitUrl | None:
    """Read a git URL; None if `text` is none. Raises `DockerfileError` for one with a wrong query."""
    if "://" not in text and "@" not in text and not text.startswith("github.com/"):
        return None
    try:
        return read_git_url(text)
    except NotGitError:
        return None


def read_git_url(text: str) -> GitUrl:
    """`parse_git_url` for who wants to know why a text is no git URL: raises `NotGitError`."""
    if text.startswith(("./", "../")):
        raise NotGitError("invalid argument")
    is_local = text.startswith("github.com/")
    if match := re.match(_SCP, text):
        url = _scp_url(text, match)
    elif is_local or re.match("[a-zA-Z0-9]+://", text):
        url = _git_scheme("https://" + text if is_local else text)
        if not is_local and url.scheme in ("http", "https") and not url.path.endswith(".git"):
            raise NotGitError("invalid argument")
    else:
        raise NotGitError("unknown protocol")
    remote = url.without_query().removeprefix("https://" if is_local else "")
    ref, _, subdir = url.fragment.partition(":")
    git = GitUrl(
        remote, url.host, url.path, ref, join("/", subdir)[1:], is_local=is_local, is_ssh=url.scheme == "ssh"
    )
    return _with_query(git, url.query)


_SCP = r"([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):([^?#\n]*)(?:\?([^#\n]*))?(?:#([^\n]*))?\Z"


def _git_scheme(text: str) -> _Url:
    protocol = text.partition("://")[0].lower()
    if protocol not in ("http", "https", "ssh", "git"):
        raise NotGitError(f"{protocol}: invalid protocol")
    try:
        return _parse_url(text)
    except ValueError as error:
        raise NotGitError(f"parse {quote(text)}: {error}") from None


def _scp_url(text: str, match: re.Match[str]) -> _Url:
    """`user@host:path`, which git takes for ssh."""
    user, host, path, query, fragment = match.groups("")
    if len(_query_values(query)) != len([pair for pair in query.split("&") if pair]):
        raise NotGitError("unknown protocol")
    return _Url("ssh", user, host, path, text[: match.end(3)], query, fragment)


class _Url(NamedTuple):
    """Parts without percent encoding; `spelling` is the URL up to its path as Go writes it."""

    scheme: str
    user: str
    host: str
    path: str
    spelling: str
    query: str = ""
    fragment: str = ""
    has_bare_query: bool = False

    def without_query(self) -> str:
        """Go keeps a question mark that nothing follows."""
        return self.spelling + ("?" if self.has_bare_query else "")


def url_path(text: str) -> str | None:
    """The path of a URL without percent encoding; None if the URL is malformed."""
    try:
        return _parse_url(text).path
    except ValueError:
        return None


def _parse_url(text: str) -> _Url:
    """Read `scheme://…` as Go's `url.Parse`; raise `ValueError` where that fails."""
    if re.search("[\0-\x1f\x7f]", text):
        raise ValueError("net/url: invalid control character in URL")
    rest, _, fragment = text.partition("#")
    scheme, _, rest = rest.partition("://")
    has_bare_query = rest.endswith("?") and rest.count("?") == 1
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not re.fullmatch(r"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*", user):
        raise ValueError("net/url: invalid userinfo")
    name, colon, password = user.partition(":")
    login = _encoded(_decoded(name), "$&+,;=") + colon + _encoded(_decoded(password), "$&+,;=")
    host = _parse_host(host)
    path = slash + path
    decoded = _decoded(path)
    if not re.fullmatch(r"[A-Za-z0-9\-._~!$&'()*+,;=:@\[\]/%]*", path):
        path = _encoded(decoded, "$&+,/:;=@")
    spelling = f"{scheme.lower()}://{login}{at}{_encoded(host, _HOST)}{path}"
    return _Url(scheme.lower(), user, host, decoded, spelling, query, _decoded(fragment), has_bare_query)


_HOST = "!$&'()*+,;=:[]<>\""


def _parse_host(host: str) -> str:
    end = host.rfind("]") + 1
    if host.startswith("[") and not end:
        raise ValueError("missing ']' in host")
    colon = end if host.startswith("[") else host.rfind(":")
    port = host[colon:] if colon >= 0 else ""
    if not re.fullmatch("(?::[0-9]*)?", port):
        raise ValueError(f"invalid port {quote(port)} after host")
    if match := re.search("%[0-7].", host.replace("%25", "") if end else host):
        raise ValueError(f"invalid URL escape {quote(match[0])}")
    decoded = _decoded(host)
    if match := re.search(rf"[^A-Za-z0-9\-._~%{re.escape(_HOST)}\x80-\U0010ffff]", host):
        raise ValueError(f"invalid character {quote(match[0])} in host name")
    return decoded


def _decoded(text: str) -> str:
    """Undo percent encoding; raise `ValueError` for a percent sign without two hexadecimal digits."""
    if "%" not in text:
        return text
    if match := re.search("%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"invalid URL escape {quote(text[match.start() : match.start() + 3])}")
    data = re.sub(rb"%(..)", lambda match: bytes([int(match[1], 16)]), text.encode(errors="surrogateescape"))
    return data.decode(errors="surrogateescape")


def _encoded(text: str, kept: str) -> str:
    """Percent-encode all bytes but letters, digits, `-_.~` and those in `kept`."""
    safe = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~" + kept.encode())
    data = text.encode(errors="surrogateescape")
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in data)


def _query_values(query: str) -> list[tuple[str, str]]:
    """The pairs of a query; malformed ones are left out."""
    values = []
    for pair in query.split("&"):
        name, _, value = pair.replace("+", " ").partition("=")
        if pair and ";" not in pair:
            try:
                values.append((_decoded(name), _decoded(value)))
            except ValueError:
                continue
    return values


_SWITCHES = ("keep-git-dir", "submodules", "fetch-by-commit")
_NAMES = ("ref", "tag", "branch", "subdir", "checksum", "commit", "mtime", *_SWITCHES)
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def _with_query(git: GitUrl, query: str) -> GitUrl:
    """Apply `?ref=…&subdir=…`."""
    given: dict[str, str] = {}
    for name, value in _query_values(query):
        if name in given:
            raise DockerfileError(f"query {quote(name)} has multiple values")
        if not value and name not in _SWITCHES:
            raise DockerfileError(f"query {quote(name)} has no value")
        if name not in _NAMES:
            raise DockerfileError(f"unexpected query {quote(name)}")
        given[name] = valid(value)
    keep, submodules, fetch_by_commit = (_switch(name, given.get(name)) for name in _SWITCHES)
    mtime = given.get("mtime", "")
    if mtime not in ("", "checkout", "commit"):
        raise DockerfileError(f'invalid mtime value: {quote(mtime)} (must be "checkout" or "commit")')
    checksum = given.get("checksum", given.get("commit", ""))
    subdir = _agreed("subdir", git.subdir, given.get("subdir", ""))
    return git._replace(
        ref=_ref(git.ref, given),
        subdir=subdir,
        checksum=checksum,
        keep_git_dir=keep,
        submodules=submodules,
        mtime=mtime,
        fetch_by_commit=bool(fetch_by_commit),
    )


def _switch(name: str, value: str | None) -> bool | None:
    """A name without value switches on."""
    if value and value not in _BOOLEANS:
        raise DockerfileError(f"invalid {name} value: {quote(value)}")
    return None if value is None else _BOOLEANS.get(value, True)


def _ref(ref: str, given: dict[str, str]) -> str:
    """The ref out of the fragment and `ref`, `tag` and `branch`, which must agree."""
    ref = _agreed("ref", ref, given.get("ref", ""))
    tag, branch = given.get("tag", ""), given.get("branch", "")
    if tag and branch:
        raise DockerfileError("branch conflicts with tag")
    full_tag = tag and "refs/tags/" + tag.removeprefix("refs/tags/")
    full_branch = branch and "refs/heads/" + branch.removeprefix("refs/heads/")
    return _agreed("ref", ref, full_tag or full_branch)


def _agreed(what: str, one: str, other: str) -> str:
    if one and other and one != other:
        raise DockerfileError(f"{what} conflicts: {quote(one)} vs {quote(other)}")
    return one or other
