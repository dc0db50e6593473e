"""URLs as a registry client needs them: checked, joined to redirects, shown without what is secret in them.

`urllib.parse` would do more than is needed, and importing it costs as much as the whole rest of a request.
"""

from __future__ import annotations

import re

from inlay.errors import RegistryError
from inlay.namedtuple import NamedTuple

_URL = re.compile(
    r"(https?)://(?:[^/?#@]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?([/?][!-~]*)?\Z"
)
_PORTS = {"http": 80, "https": 443}
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Url(NamedTuple):
    """`target` is path and query as they go on the wire; `host` has no brackets, also for IPv6."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Check an absolute http(s) URL; credentials in it are dropped. Raises `RegistryError`."""
        match = _URL.match(text.partition("#")[0])
        if match is None or not 0 < int(match[3] or _PORTS[match[1]]) < 65536:
            raise RegistryError(f"{text.partition('?')[0]!r:.200} is not an http or https URL")
        scheme, host, port, target = match.groups()
        target = "/" + (target or "").removeprefix("/")
        return cls(scheme, host.strip("[]").lower(), int(port or _PORTS[scheme]), target)

    @classmethod
    def of_host(cls, scheme: str, host: str, target: str) -> Url:
        """A URL at `host`, which may have a port, as image references write it."""
        return cls.parse(f"{scheme}://{host}{target}")

    def join(self, location: str) -> Url:
        """Where a `Location` header leads from here (RFC 3986, 5.2, without dot segments)."""
        if location.startswith(("http://", "https://")):
            return Url.parse(location)
        if location.startswith("//"):
            return Url.parse(f"{self.scheme}:{location}")
        path = self.target.partition("?")[0]
        if location.startswith("?"):
            target = path + location
        elif location.startswith("/"):
            target = location
        else:
            target = path.rpartition("/")[0] + "/" + location
        return Url.parse(f"{self.scheme}://{self.netloc}{target}")

    def with_query(self, **fields: str) -> Url:
        """The same URL with more query fields."""
        query = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
        return self._replace(target=f"{self.target}{'&' if '?' in self.target else '?'}{query}")

    @property
    def netloc(self) -> str:
        """Host and port as the `Host` header and image references write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """What credentials are bound to."""
        return self[:3]

    def __str__(self) -> str:
        """Without the query: that is where signed URLs keep their secrets."""
        return f"{self.scheme}://{self.netloc}{self.target.partition('?')[0]}"


def quote(text: str) -> str:
    """Percent-encode `text` for a query field."""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in text.encode())


def basic(userinfo: str) -> str:
    """The `Authorization` header for the `user:password` of a URL, percent-encoded as it is there."""
    from base64 import b64encode

    parts = userinfo.encode().split(b"%")
    plain = parts[0] + b"".join(_unquoted(part) for part in parts[1:])
    return "Basic " + b64encode(plain).decode()


def _unquoted(part: bytes) -> bytes:
    """What follows a percent sign."""
    try:
        return bytes.fromhex(part[:2].decode()) + part[2:]
    except ValueError:
        return b"%" + part


def is_loopback(host: str) -> bool:
    """Tell whether a host's name says that it is this machine."""
    return host in ("localhost", "::1") or host.endswith(".localhost") or _LOOPBACK.match(host) is not None


_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}\Z")
