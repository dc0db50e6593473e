"""EXPOSE (BuildKit: frontend/dockerfile/dockerfile2llb/convert_expose.go)."""

from __future__ import annotations

from inlay.dockerfile.literals import parse_int, parse_ip
from inlay.golang.text import quote
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.dockerfile.instructions import Expose
    from inlay.dockerfile.scope import Scope

_PROTOCOLS = ("tcp", "udp", "sctp")


def expose(scope: Scope, instruction: Expose) -> None:
    """Note the ports, ranges as each of their ports. Raises `ValueError` with BuildKit's message."""
    words = [word for text in instruction.words for word in scope.conversion.lexer.split(text, scope.env)]
    ports = [port for word in words for port in _ports(scope, word)]
    for port in ports:
        scope.stage.image.exposed_ports[port] = {}
    scope.commit(f"EXPOSE [{' '.join(ports)}]")


def _ports(scope: Scope, word: str) -> list[str]:
    """`8000-8002/tcp` as three ports. Addresses and host ports are checked, and dropped."""
    address, host_port, container_port = _split(word)
    numbers, _, protocol = container_port.partition("/")
    problem = ""
    if not numbers:
        problem = "no port specified"
    elif protocol and protocol.lower() not in _PROTOCOLS:
        problem = f"invalid proto: {protocol}"
    if problem:
        raise ValueError(f"invalid port: {quote(word)}: {problem}")
    if protocol != protocol.lower():
        message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
        scope.linter.warn("ExposeProtoCasing", message, scope.location)
    if address or host_port:
        message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
        scope.linter.warn("ExposeInvalidFormat", message, scope.location)
    _check_address(address)
    first, last = _range(numbers, "invalid containerPort")
    if host_port:
        _check_host_port(host_port, numbers, last - first)
    return [f"{number}/{protocol.lower() or 'tcp'}" for number in range(first, last + 1)]


def _split(word: str) -> tuple[str, str, str]:
    """The address, the host's port and the container's."""
    parts = word.split(":")
    if len(parts) == 1:
        return "", "", word
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def _check_address(address: str) -> None:
    if address.startswith("["):
        end = address.find("]")
        if end < 0:
            raise ValueError(f"invalid IP address {address}: address {address}:: missing ']' in address")
        rest = address[end + 1 :]
        inner = address[1:end]
        if rest:
            problem = "too many colons in address" if rest.startswith(":") else "missing port in address"
            raise ValueError(f"invalid IP address {address}: address {address}:: {problem}")
        if "[" in inner:
            raise ValueError(f"invalid IP address {address}: address {address}:: unexpected '[' in address")
        address = inner
    if address and not parse_ip(address):
        raise ValueError(f"invalid IP address: {address}")


def _check_host_port(host_port: str, container_ports: str, span: int) -> None:
    first, last = _range(host_port, "invalid hostPort")
    # A range of host ports is for one container port to be put somewhere in it.
    if span not in (0, last - first):
        raise ValueError(
            f"invalid ranges specified for container and host Ports: {container_ports} and {host_port}"
        )


def _range(text: str, wrong: str) -> tuple[int, int]:
    start, dash, end = text.partition("-")
    try:
        first = _number(start)
        last = _number(end) if dash and start != end else first
    except ValueError:
        raise ValueError(f"{wrong}: {text}") from None
    if last < first:
        raise ValueError(f"{wrong}: {text}")
    return first, last


def _number(text: str) -> int:
    number = parse_int(text)
    if not 0 <= number <= 65535:
        raise ValueError("value out of range (0-65535)")
    return number
