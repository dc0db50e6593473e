"""Who we are to a registry: docker's credential file and helpers, Basic and Bearer challenges.

Credentials go only to the registry they are for and, as the protocol has it, to the token service which that
registry names in a challenge of its own; never over http when the registry itself was reached by https, and
never to a host that a redirect led to.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from binascii import a2b_base64, b2a_base64

from inlay import json
from inlay.errors import RegistryError, Unauthorized
from inlay.regexp import regexp
from inlay.registry.url import Url, quote
from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

Scopes = frozenset[str]
"""What a token is for, such as `repository:library/busybox:pull`."""
DOCKER_HUB = "https://index.docker.io/v1/"
"""How docker's credential file calls docker.io."""
_HELPER_TIMEOUT_S = 30
_TOKEN_LIMIT = 1 << 20
_TOKEN_MARGIN_S = 10.0
_REFUSALS = (400, 401, 403)
_PARAMETER = regexp(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = regexp(r"(?i)(?:^|,)\s*(basic|bearer)(?:\s+|\Z|(?=,))")
_ESCAPED = regexp(r"\\(.)")


class Credential(NamedTuple):
    """A name and password; or, as `identity_token`, what a token service takes in their place."""

    username: str
    password: str
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credential({self.username!r}, …)"

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header."""
        plain = f"{self.username}:{self.password}".encode()
        return "Basic " + b2a_base64(plain, newline=False).decode()


class Challenge(NamedTuple):
    """What a registry asks for: `scheme` is `basic` or `bearer`."""

    scheme: str
    parameters: dict[str, str]


class Fetch(Protocol):
    """How a token service is asked, with a form as body; returns status and body, raises `RegistryError`."""

    def __call__(
        self, method: str, url: Url, authorization: str, body: bytes, *, limit: int
    ) -> tuple[int, bytes]: ...


def parse_challenges(header: str) -> list[Challenge]:
    """Read a `WWW-Authenticate` header, the challenges that are understood only."""
    pieces = list(_SCHEME.finditer(header))
    ends = [piece.start() for piece in pieces[1:]] + [len(header)]
    return [
        Challenge(
            piece[1].lower(),
            {
                name.lower(): _ESCAPED.sub(r"\1", quoted) or bare
                for name, quoted, bare in _PARAMETER.findall(header[piece.end() : end])
            },
        )
        for piece, end in zip(pieces, ends, strict=False)  # one end, and no piece, in a header without any
    ]


class DockerConfig:
    """docker's credential file, read when the first registry asks for credentials.

    `given`, a text of that form, has its `auths` looked at first.
    """

    __slots__ = ("_fields", "_given", "_lock", "notes", "path")

    def __init__(self, path: str, given: str = "") -> None:
        self.path = path
        self._given = given
        self._fields: dict[str, Any] | None = None
        self._lock = allocate_lock()
        self.notes: list[str] = []
        """Why credentials that the file speaks of could not be had; without secrets."""

    @classmethod
    def default(cls, environment: Mapping[str, str]) -> DockerConfig:
        folder = environment.get("DOCKER_CONFIG") or os.path.join(
            environment.get("HOME") or os.path.expanduser("~"), ".docker"
        )
        return cls(os.path.join(folder, "config.json"), environment.get("DOCKER_AUTH_CONFIG", ""))

    def credential(self, host: str) -> Credential | None:
        """The credential for a registry (`docker.io`, `host:port`); None where there is none."""
        with self._lock:
            if self._fields is None:
                self._fields = self._load()
            keys = (DOCKER_HUB, "docker.io", "registry-1.docker.io") if host == "docker.io" else (host,)
            if self._given and (found := self._stored(self._parse_given(), keys)):
                return found
            helpers = self._fields.get("credHelpers")
            for key in keys:
                helper = helpers.get(key) if isinstance(helpers, dict) else None
                if isinstance(helper, str) and (found := self._ask_helper(helper, key)):
                    return found
            store = self._fields.get("credsStore")
            if isinstance(store, str) and store and (found := self._ask_helper(store, keys[0])):
                return found
            return self._stored(self._fields, keys)

    def helpers(self) -> list[str]:
        """The names of the credential helpers that it has for registries."""
        with self._lock:
            if self._fields is None:
                self._fields = self._load()
        helpers = self._fields.get("credHelpers")
        named = [self._fields.get("credsStore"), *(helpers.values() if isinstance(helpers, dict) else ())]
        return sorted({name for name in named if isinstance(name, str) and name})

    def _load(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                fields = json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
            self.notes.append(f"{self.path} could not be read: {reason}")
            return {}
        return fields if isinstance(fields, dict) else {}

    def _parse_given(self) -> dict[str, Any]:
        try:
            fields = json.loads(self._given)
        except ValueError:
            self._given = ""
            self.notes.append("DOCKER_AUTH_CONFIG is not used: it is not JSON")
            return {}
        return fields if isinstance(fields, dict) else {}

    def _stored(self, fields: dict[str, Any], keys: Iterable[str]) -> Credential | None:
        """Look into `auths`, whose keys are hosts or URLs."""
        auths = fields.get("auths")
        entries = {_host_of(key): entry for key, entry in auths.items()} if isinstance(auths, dict) else {}
        for key in keys:
            entry = entries.get(_host_of(key))
            if isinstance(entry, dict) and (found := self._parse_entry(key, entry)):
                return found
        return None

    def _parse_entry(self, key: str, entry: dict[str, Any]) -> Credential | None:
        username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        if entry.get("auth"):
            try:
                username, _, password = a2b_base64(str(entry["auth"])).decode().rstrip("\0").partition(":")
            except ValueError:
                self.notes.append(f"{self.path}: the entry of {key} is damaged; log in again")
                return None
        token = str(entry.get("identitytoken") or "")
        return Credential(username, password, token) if token or username or password else None

    def _ask_helper(self, name: str, key: str) -> Credential | None:
        """Run `docker-credential-NAME get` (docker-credential-helpers' protocol)."""
        from inlay.system import outside

        program = f"docker-credential-{name}"
        if not regexp(r"[A-Za-z0-9._-]+").fullmatch(name):
            self.notes.append(f"{self.path}: {name!r:.60} is not the name of a credential helper")
            return None
        try:
            code, said = outside.run([program, "get"], key.encode(), timeout_s=_HELPER_TIMEOUT_S)
            answer = json.loads(said) if code == 0 else None
        except FileNotFoundError:
            self.notes.append(f"{program}, which {self.path} names, is not installed")
            return None
        except (OSError, ValueError):
            self.notes.append(f"{program} gave no usable answer for {key}")
            return None
        if not isinstance(answer, dict):
            if b"not found" not in said.lower():
                self.notes.append(f"{program} failed for {key} with exit code {code}")
            return None
        username, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
        return Credential("", "", secret) if username == "<token>" else Credential(username, secret)


def _host_of(key: str) -> str:
    """The host of a key of `auths`; docker.io's stays as it is."""
    return (
        key if key == DOCKER_HUB else key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    )


class _Token(NamedTuple):
    text: str
    expires: float


class Authenticator:
    """Answers one registry's challenges, and remembers the answers. Safe to share between threads.

    `host` is the registry as references call it; `credential` gives its credential when it is first needed.
    """

    __slots__ = ("_challenge", "_credential", "_lock", "_look_up", "_refused", "_secrets", "_tokens", "host")

    def __init__(self, host: str, credential: Callable[[str], Credential | None]) -> None:
        self.host = host
        self._look_up: Callable[[str], Credential | None] | None = credential
        self._credential: Credential | None = None
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._refused: dict[Scopes, int] = {}
        """The status with which a token was refused. It is not asked for again: registries lock accounts for that."""
        self._secrets: set[str] = set()
        self._lock = allocate_lock()

    def header(self, scopes: Scopes, fetch: Fetch) -> str:
        """The `Authorization` header for a request, empty while the registry has not asked for one."""
        with self._lock:
            if self._challenge is None:
                return ""
            if self._challenge.scheme == "basic":
                return self._credential.basic if self._credential else ""
            return self._bearer(self._challenge, scopes, fetch)

    def answer(self, header: str, url: Url, scopes: Scopes, used: str, fetch: Fetch) -> str:
        """Answer the `WWW-Authenticate` header of a 401 from `url` to a request that had `used` as its
        authorization; empty when nothing better can be said."""
        with self._lock:
            challenge = _choose(parse_challenges(header))
            if challenge is None:
                return ""
            if self._look_up is not None:
                self._credential = self._look_up(self.host)
                self._look_up = None
            if challenge.scheme == "basic":
                self._challenge = challenge
                answer = self._credential.basic if self._credential and self._credential.username else ""
                self._note_secrets(answer)
                return answer if answer != used else ""
            _check_realm(challenge, url)
            self._challenge = challenge
            wanted = frozenset(challenge.parameters.get("scope", "").split())
            token = self._tokens.get(scopes)
            if token is not None and f"Bearer {token.text}" == used:
                del self._tokens[scopes]
            answer = self._bearer(challenge, scopes, fetch, wanted)
            return answer if answer != used else ""

    def _bearer(
        self, challenge: Challenge, scopes: Scopes, fetch: Fetch, wanted: Scopes = frozenset()
    ) -> str:
        token = self._tokens.get(scopes)
        if token is None or token.expires < time.monotonic():
            token = self._tokens[scopes] = self._fetch_token(challenge, scopes | wanted, fetch)
            self._note_secrets(token.text)
        return f"Bearer {token.text}"

    def _fetch_token(self, challenge: Challenge, scopes: Scopes, fetch: Fetch) -> _Token:
        realm, service = Url.parse(challenge.parameters["realm"]), challenge.parameters.get("service", "")
        if scopes in self._refused:
            raise self._refusal(realm, self._refused[scopes])
        credential = self._credential
        if credential is not None and credential.identity_token:
            fields = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": "inlay",
                "scope": " ".join(sorted(scopes)),
                "refresh_token": credential.identity_token,
            }
            body = "&".join(f"{name}={quote(value)}" for name, value in fields.items()).encode()
            status, answer = fetch("POST", realm, "", body, limit=_TOKEN_LIMIT)
        else:
            if service:
                realm = realm.with_query(service=service)
            for scope in sorted(scopes):
                realm = realm.with_query(scope=scope)
            authorization = credential.basic if credential is not None else ""
            status, answer = fetch("GET", realm, authorization, b"", limit=_TOKEN_LIMIT)
        if status != 200:
            if status in _REFUSALS:
                self._refused[scopes] = status
            raise self._refusal(realm, status)
        return _parse_token(answer, realm)

    def _refusal(self, realm: Url, status: int) -> RegistryError:
        if status in _REFUSALS:
            who = "the stored credentials" if self._credential else "access without credentials"
            hint = f'log in with "docker login {self.host}", and check that the name is right'
            return Unauthorized(f"{realm.host} refuses {who} for {self.host}; {hint}", status=status)
        return RegistryError(f"the token service {realm} of {self.host} answered {status}", status=status)

    def _note_secrets(self, *secrets: str) -> None:
        known = self._credential or Credential("", "")
        self._secrets.update(s for s in (*secrets, known.password, known.identity_token) if len(s) > 3)

    def redact(self, text: str) -> str:
        """`text` without the secrets that were sent, should a registry repeat them."""
        for secret in list(self._secrets):
            text = text.replace(secret.removeprefix("Basic "), "…")
        return text


def _choose(challenges: list[Challenge]) -> Challenge | None:
    bearer = [c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm")]
    return next(iter(bearer + [c for c in challenges if c.scheme == "basic"]), None)


def _check_realm(challenge: Challenge, url: Url) -> None:
    realm = Url.parse(challenge.parameters["realm"])
    if url.scheme == "https" and realm.scheme != "https":
        raise Unauthorized(f"{url.netloc} names a token service without TLS, {realm}: nothing is sent there")


def _parse_token(answer: bytes, realm: Url) -> _Token:
    try:
        fields = json.loads(answer)
        text = fields.get("token") or fields.get("access_token")
    except (ValueError, AttributeError):
        text = None
    if not isinstance(text, str) or not regexp(r"[!-~]+").fullmatch(text):
        raise RegistryError(f"the token service {realm} gave no token")
    lifetime = fields.get("expires_in")
    seconds = float(lifetime) if isinstance(lifetime, int | float) and lifetime > 0 else 60.0
    return _Token(text, time.monotonic() + max(seconds - _TOKEN_MARGIN_S, seconds / 2))
