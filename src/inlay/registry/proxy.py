"""Which proxy a request goes through: the environment's rules, as Go's and curl's clients read them."""

from __future__ import annotations

from inlay.errors import UsageError
from inlay.registry.url import Url, basic, is_loopback
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Proxy(NamedTuple):
    """An http proxy; `authorization` is the `Proxy-Authorization` header's value or empty."""

    host: str
    port: int
    authorization: str

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


def proxy_for(url: Url, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for `url`, or None. This machine's own services are always reached directly."""
    text = environment.get(f"{url.scheme}_proxy") or environment.get(f"{url.scheme.upper()}_PROXY")
    if not text or is_loopback(url.host):
        return None
    if _is_exempt(url, environment.get("no_proxy") or environment.get("NO_PROXY") or ""):
        return None
    return _parse(text, f"{url.scheme}_proxy")


def _parse(text: str, variable: str) -> Proxy:
    if "://" not in text:
        text = f"http://{text}"
    if not text.startswith("http://"):
        raise UsageError(f"{variable}: only http:// proxies are supported, not {text.partition('://')[0]}://")
    userinfo, _, _ = text[7:].partition("/")[0].rpartition("@")
    url = Url.parse(text)
    return Proxy(url.host, url.port, basic(userinfo) if userinfo else "")


def _is_exempt(url: Url, no_proxy: str) -> bool:
    """Look for `url` in NO_PROXY: `*`, names (and all below them), `.names` (only below), addresses,
    networks; any of them with a port."""
    for item in no_proxy.replace(" ", ",").split(","):
        rule = item.strip().lower()
        if rule == "*":
            return True
        name, _, port = rule.rpartition(":") if rule.count(":") == 1 else (rule, "", "")
        if not name or (port and port != str(url.port)):
            continue
        if "/" in name:
            if _is_in_network(url.host, name):
                return True
        elif name.lstrip("*").startswith("."):
            if url.host.endswith(name.lstrip("*")):
                return True
        elif url.host == name.strip("[]") or url.host.endswith("." + name):
            return True
    return False


def _is_in_network(host: str, network: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
