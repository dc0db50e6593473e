"""How git is let in by a remote: headers and tokens from secrets, passwords in URLs, ssh agents, known hosts.

Credentials are for the remote that they were given for. git itself would send them on to where a redirect
leads; so where it has some it is told to follow none, and the redirect is followed here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex

from inlay.errors import RegistryError
from inlay.llb.ops import SecretOption
from inlay.registry.transport import Request
from inlay.registry.url import Url, basic
from inlay.sources.credentials import header_text
from inlay.sources.gitcli import Access, Git
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inlay.llb.ops import SourceOp
    from inlay.registry.transport import Transport
    from inlay.sources.credentials import Credentials
    from inlay.sources.gitcli import GitError, Running

_GITHUB = ("https://github.com/", "https://www.github.com/")
_SSH = (
    "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o ConnectTimeout=15 "
    "-o ServerAliveInterval=15 -o ServerAliveCountMax=4"
)
_INFO = "/info/refs?service=git-upload-pack"
_USERINFO = re.compile(r"://[^/]*@")


class GitAccess:
    """The doors that one build has keys for."""

    def __init__(self, credentials: Credentials, transport: Callable[[], Transport]) -> None:
        self._credentials = credentials
        self._transport = transport

    @contextlib.contextmanager
    def session(self, remote: str, op: SourceOp, running: Running) -> Iterator[tuple[Git, str]]:
        """git with the keys for `remote`, and the URL that it is to use, in which no password is.

        Raises `SourceError` for secrets that cannot be used, `SolveError` where an ssh agent is missing.
        """
        with contextlib.ExitStack() as stack:
            if not remote.lower().startswith(("http://", "https://")):
                is_ssh = not remote.lower().startswith("git://")
                yield Git(self._ssh(op, stack) if is_ssh else Access(), running), remote
                return
            header, texts = self._header(remote, op)
            url = without_userinfo(remote) if ":" in _userinfo(remote) else remote
            yield Git(_http(header, without_userinfo(remote), texts), running), url

    def follow(self, git: Git, url: str, error: GitError) -> tuple[Git, str] | None:
        """Where a redirect leads that git was not allowed to follow, and git with the keys for that place: the
        same on the same server, else none. None where there is no such redirect."""
        if not git.access.header or not re.search(r"returned error: 30\d", error.said):
            return None
        try:
            place = Url.parse(without_userinfo(url) + _INFO)
            request = Request("GET", place, "reach", str(place), authorization=git.access.header)
            with self._transport().open(request) as response:
                there = response.url
        except RegistryError:
            return None
        if not there.target.endswith(_INFO) or there == place:
            return None
        moved = f"{there.scheme}://{there.netloc}{there.target.removesuffix(_INFO)}"
        same = there.origin == place.origin
        return Git(
            _http(git.access.header, moved, git.access.texts) if same else Access(), git.running
        ), moved

    def _header(self, remote: str, op: SourceOp) -> tuple[str, tuple[str, ...]]:
        """The `Authorization` for a remote, and the texts in it that nobody may see (BuildKit: `getAuthToken`)."""
        host = without_userinfo(remote).partition("://")[2].partition("/")[0]
        header_name, token_name = op.attr("git.authheadersecret"), op.attr("git.authtokensecret")
        for end in (f".{host}", ""):
            for name, is_token in ((header_name, False), (token_name, True)):
                value = self._credentials.value(name + end) if name else None
                if value is not None:
                    text = header_text(value, name + end)
                    return (basic(_quoted(f"x-access-token:{text}")) if is_token else text), (text,)
        userinfo = _userinfo(remote)
        if ":" in userinfo:
            return basic(userinfo), (userinfo, userinfo.partition(":")[2])
        return "", ()

    def _ssh(self, op: SourceOp, stack: contextlib.ExitStack) -> Access:
        """ssh with an agent's keys only. A host that is known must have its key; one that is not is taken as it is,
        as BuildKit does, unless the op says which keys to expect."""
        import tempfile

        variables = [("GIT_SSH_VARIANT", "ssh")]
        name = op.attr("git.mountsshsock")
        if name:
            option = SecretOption(name, os.getuid(), os.getgid(), 0o600)
            agent = self._credentials.agent(option)
            if agent is not None:
                stack.callback(agent.close)
                variables.append(("SSH_AUTH_SOCK", agent.socket_path))
        known = op.attr("git.knownsshhosts")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="inlay-ssh-"))
        with open(f"{folder}/known_hosts", "w", encoding="utf-8") as file:
            file.write(f"{known or _known_hosts()}\n")
        options = (
            f'UserKnownHostsFile="{file.name}"',
            f"StrictHostKeyChecking={'yes' if known else 'accept-new'}",
        )
        command = " ".join([_SSH, *(f"-o {shlex.quote(option)}" for option in options)])
        return Access(variables=(*variables, ("GIT_SSH_COMMAND", command)))


def _http(header: str, scope: str, texts: tuple[str, ...]) -> Access:
    """Access by `header` to what lies below the URL `scope`. Submodules get the same settings, and so nothing of
    it unless they lie there too; at GitHub all do, as BuildKit has it."""
    if not header:
        return Access()
    scope = next((place for place in _GITHUB if scope.startswith(place)), scope)
    settings = (
        (f"http.{scope}.extraHeader", f"Authorization: {header}"),
        (f"http.{scope}.followRedirects", "false"),
    )
    return Access(header, settings, texts=(header.partition(" ")[2] or header, *texts))


def without_userinfo(url: str) -> str:
    return _USERINFO.sub("://", url, count=1)


def _userinfo(url: str) -> str:
    match = _USERINFO.search(url)
    return match[0][3:-1] if match else ""


def _quoted(text: str) -> str:
    """As `basic` expects it."""
    return text.replace("%", "%25")


def _known_hosts() -> str:
    try:
        with open(
            os.path.expanduser("~/.ssh/known_hosts"), encoding="utf-8", errors="surrogateescape"
        ) as file:
            return file.read().encode(errors="replace").decode()
    except OSError:
        return ""
