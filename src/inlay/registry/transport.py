"""Requests to registries: pooled connections, credentials, redirects, retries, limits and counters.

One `Transport` serves all repositories of a build and any number of threads. What goes wrong comes out as
`RegistryError` or one of its kinds; a socket's own `OSError` never does.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from inlay.errors import ContentError, RegistryError, Unauthorized
from inlay.registry.ahead import Ahead
from inlay.registry.dial import Abort, Tls, dial
from inlay.registry.proxy import Proxy, proxy_for
from inlay.registry.url import Url, is_loopback
from inlay.registry.wire import Connection, ProtocolError, Response
from inlay.typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from inlay.registry.auth import Authenticator, Credential, DockerConfig

T = TypeVar("T")

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_IDLE_LIMIT_S = 30.0
_IDLE_PER_HOST = 8
_ERROR_LIMIT = 64 << 10
DOCKER_IO = "registry-1.docker.io"


class Settings(NamedTuple):
    """How registries are reached; times in seconds.

    `insecure`: hosts (`host` or `host:port`) that are reached by https with any certificate or by http;
    `http://host` and `https://host` say which. `mirrors`: for a registry's host, hosts (with an optional
    path) that are asked first for what is read. `environment`: where proxies and docker's folder are named.
    """

    insecure: frozenset[str] = frozenset()
    mirrors: Mapping[str, tuple[str, ...]] = {}
    connect_timeout_s: float = 15.0
    read_timeout_s: float = 60.0
    attempts: int = 5
    backoff_s: float = 0.3
    longest_wait_s: float = 60.0
    environment: Mapping[str, str] = os.environ
    user_agent: str = "inlay"


class Traffic:
    """Bytes of blobs and manifests that came (`pulled`) and went (`pushed`), heads not counted."""

    __slots__ = ("_lock", "pulled", "pushed")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self.pulled = 0
        self.pushed = 0

    def add_pulled(self, count: int) -> None:
        with self._lock:
            self.pulled += count

    def add_pushed(self, count: int) -> None:
        with self._lock:
            self.pushed += count


class Body(NamedTuple):
    """A request's body: `size` bytes of the stream that `open` gives, anew for each attempt."""

    open: Callable[[], BinaryIO]
    size: int


class Request(NamedTuple):
    """`action` and `reference` are for errors: "cannot `pull the manifest of` `host/app:1`: …". `registry`
    is the host whose credentials it may carry, empty for none; `authorization` a header's value for a request
    to no registry, which no other host gets to see. `attempts` replaces the settings' number. `may_lose_tls`:
    redirects may lead from https to http, as long as there is no `authorization`."""

    method: str
    url: Url
    action: str
    reference: str
    registry: str = ""
    scopes: frozenset[str] = frozenset()
    headers: Mapping[str, str] = {}
    body: bytes | Body = b""
    attempts: int = 0
    authorization: str = ""
    may_lose_tls: bool = False

    def failed(
        self, reason: str, kind: type[RegistryError] = RegistryError, *, status: int = 0
    ) -> RegistryError:
        """An error that says what could not be done and why."""
        sentence = f"cannot {self.action} {self.reference}: {reason}"
        return kind(sentence, reference=self.reference, status=status)


class TransientError(Exception):
    """What may go better when tried again; `error` is what to raise when it was tried enough."""

    def __init__(self, error: RegistryError, wait_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


class _Shared:
    """What a transport and those made `within` it have in common."""

    def __init__(self, settings: Settings, credential: Callable[[str], Credential | None] | None) -> None:
        self.settings = settings
        self.config: DockerConfig | None = None
        self.credential = credential
        self.traffic = Traffic()
        self.pushed: set[tuple[str, str, str]] = set()
        self.uploads: dict[tuple[str, str], list[Url]] = {}
        self.tls = Tls()
        self.lock = allocate_lock()
        self.idle: dict[tuple[str, str, int], list[Connection]] = {}
        self.schemes: dict[str, str] = {}
        self.authenticators: dict[str, Authenticator] = {}
        """Of the registries that have asked who we are."""
        self.silent: set[str] = set()
        self.ahead = Ahead()

    def authenticator(self, registry: str) -> Authenticator:
        """Who answers a registry's challenges, the first of which has come."""
        from inlay.registry.auth import Authenticator, DockerConfig

        with self.lock:
            if self.credential is None:
                self.config = DockerConfig.default(self.settings.environment)
                self.credential = self.config.credential
            if registry not in self.authenticators:
                self.authenticators[registry] = Authenticator(registry, self.credential)
            return self.authenticators[registry]


class Transport:
    """Sends requests. `credential` replaces docker's credential file: it maps a registry's host to one."""

    __slots__ = ("_abort", "_shared")

    def __init__(
        self, settings: Settings | None = None, credential: Callable[[str], Credential | None] | None = None
    ) -> None:
        self._shared = _Shared(settings or Settings(), credential)
        self._abort = Abort()

    def within(self, abort: Abort) -> Transport:
        """The same transport, whose calls `abort` ends as well as `cancel` of this one."""
        transport: Transport = object.__new__(Transport)
        transport._shared = self._shared
        transport._abort = Abort(self._abort, abort)
        return transport

    @property
    def settings(self) -> Settings:
        return self._shared.settings

    @property
    def traffic(self) -> Traffic:
        return self._shared.traffic

    @property
    def pushed(self) -> set[tuple[str, str, str]]:
        """Blobs that went to a registry, by (host, repository, digest): nobody need look for them there again."""
        return self._shared.pushed

    @property
    def uploads(self) -> dict[tuple[str, str], list[Url]]:
        """Uploads that were opened before there was anything to send, by (host, repository)."""
        return self._shared.uploads

    @property
    def silent(self) -> set[str]:
        """Mirrors that did not answer: they are not asked again."""
        return self._shared.silent

    @property
    def ahead(self) -> Ahead:
        """Answers that were asked for before they are needed."""
        return self._shared.ahead

    def cancel(self) -> None:
        """Make all calls that are under way, and all later ones, raise `RegistryError` soon."""
        self._abort()

    def close(self) -> None:
        """Close idle connections. The transport can still be used."""
        with self._shared.lock:
            idle, self._shared.idle = self._shared.idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def connect(self, url: Url) -> None:
        """Open a connection to the host of `url`, and leave it idle. Raises `OSError`, `RegistryError`."""
        connection = self._connect(url, proxy_for(url, self.settings.environment), refuse_local=False)
        self._release(url, connection, keep=True)

    def url(self, host: str, target: str) -> Url:
        """The URL of `target` at a registry's `host`, with the scheme that it is reached by."""
        return Url.of_host(self._scheme(host), DOCKER_IO if host == "docker.io" else host, target)

    def open(self, request: Request) -> Response:
        """Send a request, again where that is safe and may help, and return the answer, its body unread."""
        return self.retry(lambda: self.attempt(request), request.attempts)

    def fetch(self, request: Request, *, limit: int) -> tuple[Response, bytes]:
        """Send a request as `open` does and read the answer's body, of up to `limit` bytes."""

        def attempt() -> tuple[Response, bytes]:
            with self.attempt(request) as response:
                try:
                    return response, response.read_all(limit)
                except OSError as error:
                    raise TransientError(self.lost(request, error)) from error

        return self.retry(attempt, request.attempts)

    def retry(self, attempt: Callable[[], T], attempts: int = 0) -> T:
        """Call `attempt` until it raises no `TransientError`, but not for ever (see `wait_again`)."""
        tries = 1
        while True:
            try:
                return attempt()
            except TransientError as failure:
                self.wait_again(tries, failure, attempts)
            tries += 1

    def wait_again(self, tries: int, failure: TransientError, attempts: int = 0) -> None:
        """Wait before the next try; raise the failure's error when it was tried enough (`attempts` times, 0 for
        the settings' number), or the wait would be too long. Each wait is twice the last, and by chance up to a
        half more, so that clients spread out."""
        self._abort.check()
        settings = self.settings
        chance = os.urandom(1)[0] / 512
        wait_s = max(min(settings.backoff_s * 2.0 ** (tries - 1), 10.0) * (1 + chance), failure.wait_s or 0.0)
        if tries >= (attempts or settings.attempts) or wait_s > settings.longest_wait_s:
            raise failure.error from failure.__cause__
        self._abort.sleep(wait_s)

    def pause(self, wait_s: float) -> None:
        """Wait, unless the transport is cancelled meanwhile: then raise `RegistryError`."""
        self._abort.sleep(wait_s)

    def attempt(self, request: Request) -> Response:
        """Send a request once. Raises `TransientError` for what may go better next time."""
        response = self._follow(request)
        if response.status not in _TRANSIENT:
            return response
        wait_s = _retry_after(response.header("retry-after"))
        later = f"; it asks to come back in {wait_s:.0f} s" if wait_s else ""
        raise TransientError(self.refusal(response, request, hint=later), wait_s)

    def _follow(self, request: Request) -> Response:
        """Send a request, answer its challenge, follow its redirects."""
        origin = request.url.origin
        registry = request.registry if self._goes_to_registry(request) else ""
        known = self._shared.authenticators.get(registry)
        header = known.header(request.scopes, self._fetch_token) if known else request.authorization
        response = self._exchange(request, header)
        if response.status == 401 and registry:
            challenge = response.header("www-authenticate")
            authenticator = self._shared.authenticator(registry)
            better = authenticator.answer(challenge, request.url, request.scopes, header, self._fetch_token)
            if better:
                response.close()
                header, response = better, self._exchange(request, better)
        for _ in range(_MAX_REDIRECTS):
            location = response.header("location")
            if response.status not in _REDIRECTS or not location or request.method not in ("GET", "HEAD"):
                return response
            response.close()
            request = request._replace(url=self.redirected(request, location))
            keeps = request.url.origin == origin
            guard = bool(header) and not keeps and not is_loopback(origin[1])
            response = self._exchange(request, header if keeps else "", refuse_local=guard)
        response.close()
        raise request.failed(f"{request.url} redirects more than {_MAX_REDIRECTS} times")

    def redirected(self, request: Request, location: str) -> Url:
        """Where an answer's `Location` leads; raise `RegistryError` when that is a step down from https."""
        target = request.url.join(location)
        allowed = request.may_lose_tls and not request.authorization
        if request.url.scheme == "https" and target.scheme != "https" and not allowed:
            raise request.failed(f"refused to go on from {request.url.netloc} to {target}, without TLS")
        return target

    def _exchange(self, request: Request, authorization: str, *, refuse_local: bool = False) -> Response:
        """Send one request on one connection and read the answer's head."""
        connection: Connection | None = None
        while True:
            try:
                connection = self._connection(request.url, refuse_local=refuse_local)
                return self._talk(connection, request, authorization)
            except OSError as error:
                self._abort.check()
                if connection is None or not connection.is_reused or isinstance(request.body, Body):
                    raise TransientError(self.lost(request, error)) from error
                # It had been idle, and was closed just now: no fault of anybody. But some of a body may have come.
                connection = None

    def _connection(self, url: Url, *, refuse_local: bool) -> Connection:
        """An idle connection, or a new one."""
        self._abort.check()
        if not refuse_local:
            idle = self._idle_connection(url)
            if idle is not None:
                return idle
        proxy = proxy_for(url, self.settings.environment)
        if refuse_local and proxy is not None and is_loopback(url.host):
            raise RegistryError(f"refused to be redirected to {url}, this machine")
        return self._connect(url, proxy, refuse_local=refuse_local)

    def _talk(self, connection: Connection, request: Request, authorization: str) -> Response:
        self._abort.watch(connection.sock)
        try:
            complete = self._send(connection, request, authorization)
            return self._answer(connection, request, keep=complete)
        except BaseException:
            self._drop(connection)
            raise

    def _answer(self, connection: Connection, request: Request, *, keep: bool) -> Response:
        """Read the answer to a request; the connection is used again, when `keep`, once that is read."""
        return Response(
            connection,
            request.url,
            request.method,
            lambda connection, reusable: self._release(request.url, connection, keep=keep and reusable),
        )

    def _send(self, connection: Connection, request: Request, authorization: str) -> bool:
        """Send a request; return False when the other side stopped listening before its end."""
        url, body = request.url, request.body
        proxy = proxy_for(url, self.settings.environment) if url.scheme == "http" else None
        headers = {"Host": url.netloc, "User-Agent": self.settings.user_agent, "Accept-Encoding": "identity"}
        if authorization:
            headers["Authorization"] = authorization
        if proxy is not None and proxy.authorization:
            headers["Proxy-Authorization"] = proxy.authorization
        if request.method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = str(body.size if isinstance(body, Body) else len(body))
        headers.update(request.headers)
        target = f"http://{url.netloc}{url.target}" if proxy is not None else url.target
        connection.send_head(request.method, target, headers, body if isinstance(body, bytes) else b"")
        if isinstance(body, bytes):
            self.traffic.add_pushed(len(body) if request.registry else 0)
            return True
        with body.open() as stream:
            try:
                connection.send_stream(stream, body.size, self.traffic.add_pushed)
            except (BrokenPipeError, ConnectionResetError):
                return False  # a registry may refuse before it has read all: its answer, if any, says why
        return True

    def _connect(self, url: Url, proxy: Proxy | None, *, refuse_local: bool) -> Connection:
        settings = self.settings
        host, port = (proxy.host, proxy.port) if proxy else (url.host, url.port)
        timeout_s = settings.connect_timeout_s
        sock = dial(host, port, timeout_s=timeout_s, abort=self._abort, refuse_local=refuse_local)
        if url.scheme == "http":
            return Connection(sock, settings.read_timeout_s)
        if proxy is not None:
            self._tunnel(Connection(sock, settings.connect_timeout_s), url, proxy)
        verify = not self._is_insecure(url.netloc)
        return Connection(
            self._shared.tls.wrap(sock, url.host, verify=verify, abort=self._abort), settings.read_timeout_s
        )

    def _tunnel(self, connection: Connection, url: Url, proxy: Proxy) -> None:
        target = f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"
        headers = {"Host": target}
        if proxy.authorization:
            headers["Proxy-Authorization"] = proxy.authorization
        self._abort.watch(connection.sock)
        try:
            connection.send_head("CONNECT", target, headers)
            status = connection.read_head()[0]
        except BaseException:
            connection.close()
            raise
        finally:
            self._abort.unwatch(connection.sock)
        if status != 200:
            connection.close()
            said = f"the proxy {proxy.host}:{proxy.port} answers with status {status} for {url.netloc}"
            raise RegistryError(said, status=status)

    def _idle_connection(self, url: Url) -> Connection | None:
        while True:
            with self._shared.lock:
                waiting = self._shared.idle.get(url.origin)
                if not waiting:
                    return None
                connection = waiting.pop()
            if connection.is_usable(_IDLE_LIMIT_S):
                connection.is_reused = True
                return connection
            connection.close()

    def _drop(self, connection: Connection) -> None:
        self._abort.unwatch(connection.sock)
        connection.close()

    def _release(self, url: Url, connection: Connection, *, keep: bool) -> None:
        self._abort.unwatch(connection.sock)
        if keep and not self._abort.is_raised:
            connection.idle_since = time.monotonic()
            with self._shared.lock:
                waiting = self._shared.idle.setdefault(url.origin, [])
                if len(waiting) < _IDLE_PER_HOST:
                    waiting.append(connection)
                    return
        connection.close()

    def _goes_to_registry(self, request: Request) -> bool:
        """Whether it goes to its registry, rather than another place, which is told nothing about us."""
        registry = request.registry
        return bool(registry) and self.url(registry, "/").origin == request.url.origin

    def _fetch_token(
        self, method: str, url: Url, authorization: str, body: bytes, *, limit: int
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        request = Request(
            method, url, "get a token from", str(url), headers=headers, body=body, authorization=authorization
        )
        response, answer = self.fetch(request, limit=limit)
        return response.status, answer

    def _is_insecure(self, netloc: str) -> bool:
        names = (netloc, netloc.rpartition(":")[0]) if ":" in netloc else (netloc,)
        return any(form + name in self.settings.insecure for name in names for form in ("", "https://"))

    def _scheme(self, host: str) -> str:
        """http or https for a registry's host. An insecure one is tried with https once, and remembered."""
        with self._shared.lock:
            scheme = self._shared.schemes.get(host)
        if scheme is None:
            scheme = self._find_scheme(host)
            with self._shared.lock:
                self._shared.schemes[host] = scheme
        return scheme

    def _find_scheme(self, host: str) -> str:
        url = Url.of_host("https", host, "/v2/")
        names = (host, url.host)
        for scheme in ("http", "https"):
            if any(f"{scheme}://{name}" in self.settings.insecure for name in names):
                return scheme
        if is_loopback(url.host):
            return "https" if url.port == 443 and host.endswith(":443") else "http"
        if not self._is_insecure(url.netloc):
            return "https"
        try:
            self._exchange(Request("GET", url, "reach", host), "").close()
        except (TransientError, RegistryError):
            self._abort.check()
            return "http"
        return "https"

    def lost(self, request: Request, error: OSError) -> RegistryError:
        """Say that a host could not be reached, or broke off."""
        if isinstance(error, TimeoutError):
            reason = "no answer in time"
        elif isinstance(error, ProtocolError):
            reason = str(error)
        else:
            reason = error.strerror or str(error) or type(error).__name__
        return request.failed(f"{request.url.netloc}: {reason}; check the name, the network and the proxies")

    def refusal(
        self, response: Response, request: Request, *, hint: str = "", body: bytes = b""
    ) -> RegistryError:
        """The error for an answer that is not what was asked for; reads and closes it."""
        from inlay.registry.refusal import explain

        try:
            body = body or response.read_all(_ERROR_LIMIT)
        except (OSError, ContentError):
            body = b""
        response.close()
        kind, reason = explain(response.status, response.url.netloc, body, request.registry)
        authenticator = self._shared.authenticators.get(request.registry)
        if authenticator is not None:
            reason = authenticator.redact(reason)
        config = self._shared.config
        if kind is Unauthorized and config is not None and config.notes:
            reason += f" ({'; '.join(config.notes)})"
        return request.failed(reason + hint, kind, status=response.status)


def _retry_after(header: str) -> float | None:
    """Seconds out of a `Retry-After` header, which holds them or a date."""
    if not header:
        return None
    if header.isascii() and header.isdigit():
        return float(header[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
