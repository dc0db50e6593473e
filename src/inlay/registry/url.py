"""URLs as a registry client needs them: checked, joined to redirects, shown without what is secret in them.

`urllib.parse` would do more than is needed, and importing it costs as much as the whole rest of a request.
"""

from __future__ import annotations

from binascii import b2a_base64

from inlay.errors import RegistryError
from inlay.typing import NamedTuple

_PORTS = {"http": 80, "https": 443}
_IN_HOSTS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
_IN_ADDRESSES = "0123456789ABCDEFabcdef:."
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
        scheme, _, rest = text.partition("#")[0].partition("://")
        path = rest.find("/")
        query = rest.find("?", 0, path if path >= 0 else len(rest))
        end = query if query >= 0 else path if path >= 0 else len(rest)
        authority, target = rest[:end].rpartition("@"), rest[end:]
        host, port = _host_and_port(authority[2], scheme)
        if not host or "@" in authority[0] or not _is_printed(target):
            raise RegistryError(f"{text.partition('?')[0]!r:.200} is not an http or https URL")
        return cls(scheme, host.lower(), port, "/" + target.removeprefix("/"))

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


def shown_url(url: str) -> str:
    """`url`, of any scheme, for messages and descriptions: without credentials and query, which may be secret."""
    head, separator, rest = url.partition("#")[0].partition("?")[0].partition("://")
    if not separator:
        return head
    authority, slash, path = rest.partition("/")
    return f"{head}://{authority.rpartition('@')[2]}{slash}{path}"


def _host_and_port(text: str, scheme: str) -> tuple[str, int]:
    """Take apart what names a server, with the scheme's port if it has none; the host is empty if that fails."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        known = host and bracket and not host.strip(_IN_ADDRESSES) and (not port or port[0] == ":")
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = text.partition(":")
        known = host and not host.strip(_IN_HOSTS)
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return "", 0
    number = int(port or _PORTS.get(scheme, 0))
    return (host, number) if known and scheme in _PORTS and 0 < number < 65536 else ("", 0)


def _is_printed(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def quote(text: str) -> str:
    """Percent-encode `text` for a query field."""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in text.encode())


def basic(userinfo: str) -> str:
    """The `Authorization` header for the `user:password` of a URL, percent-encoded as it is there."""
    parts = userinfo.encode().split(b"%")
    plain = parts[0] + b"".join(_unquoted(part) for part in parts[1:])
    return "Basic " + b2a_base64(plain, newline=False).decode()


def _unquoted(part: bytes) -> bytes:
    """What follows a percent sign."""
    try:
        return bytes.fromhex(part[:2].decode()) + part[2:]
    except ValueError:
        return b"%" + part


def is_loopback(host: str) -> bool:
    """Tell whether a host's name says that it is this machine."""
    if host in ("localhost", "::1") or host.endswith(".localhost"):
        return True
    parts = host.split(".")
    return parts[0] == "127" and len(parts) == 4 and all(_is_octet(part) for part in parts)


def _is_octet(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3
