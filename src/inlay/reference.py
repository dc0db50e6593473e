"""Image names: what `alpine` is short for.

    parse("alpine").with_default_tag()    # Reference("docker.io", "library/alpine", tag="latest")
    str(parse("a/b@sha256:…"))            # docker.io/a/b@sha256:…
    parse("docker.io/library/alpine").familiar   # alpine

Source: vendor/github.com/distribution/reference of BuildKit.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from inlay.errors import UsageError

_DEFAULT_DOMAIN = "docker.io"
_OFFICIAL = "library/"
_MAX_PATH = 255


class Reference(NamedTuple):
    """An image in a registry. `tag` and `digest` are empty where none was given; both may be there.

    `domain` is empty only for what looks like a host name but is none (`a.b_c/d`).
    """

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Without tag and digest."""
        return f"{self.domain}/{self.path}" if self.domain else self.path

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def familiar(self) -> str:
        """As people write it: without `docker.io/` and `library/`."""
        if self.domain != _DEFAULT_DOMAIN:
            return str(self)
        short = self.path.removeprefix(_OFFICIAL)
        return (self.path if "/" in short else short) + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """With the tag `latest` if there is neither tag nor digest."""
        return self if self.tag or self.digest else self._replace(tag="latest")


def parse(text: str) -> Reference:
    """Read an image name, short or full; raise `UsageError` with the reason why it is none."""
    if re.fullmatch("[a-f0-9]{64}", text):
        raise UsageError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    repository = rest.partition(":")[0]
    if repository.lower() != repository:
        raise UsageError(f"invalid reference format: repository name ({repository}) must be lowercase")
    full = f"{domain}/{rest}"
    match = _shape().fullmatch(full)
    if not match:
        is_case = _shape().fullmatch(full.lower())
        raise UsageError("repository name must be lowercase" if is_case else "invalid reference format")
    if len(match["path"]) > _MAX_PATH:
        raise UsageError(f"repository name must not be more than {_MAX_PATH} characters")
    digest = match["digest"] or ""
    if digest:
        _check_digest(digest)
    return Reference(match["domain"] or "", match["path"], match["tag"] or "", digest)


def _split_domain(text: str) -> tuple[str, str]:
    """The registry and the rest; what does not look like a host name is part of the rest."""
    first, slash, rest = text.partition("/")
    if not slash:
        return _DEFAULT_DOMAIN, _OFFICIAL + text
    if first == "index.docker.io":
        first = _DEFAULT_DOMAIN
    elif first != "localhost" and not ("." in first or ":" in first) and first.lower() == first:
        first, rest = _DEFAULT_DOMAIN, text
    if first == _DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return first, rest


@cache
def _shape() -> re.Pattern[str]:
    label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
    domain = rf"(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
    word = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
    algorithm = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*"
    return re.compile(
        rf"(?:(?P<domain>{domain})/)?(?P<path>{word}(?:/{word})*)"
        rf"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(?P<digest>{algorithm}:[0-9a-fA-F]{{32,}}))?"
    )


def _check_digest(digest: str) -> None:
    """Refuse what has the shape of a digest but is none that can be checked."""
    algorithm, _, encoded = digest.partition(":")
    length = {"sha256": 64, "sha384": 96, "sha512": 128}.get(algorithm)
    if length is None:
        is_shaped = re.fullmatch("[a-z0-9]+(?:[.+_-][a-z0-9]+)*", algorithm)
        raise UsageError("unsupported digest algorithm" if is_shaped else "invalid checksum digest format")
    if len(encoded) != length:
        raise UsageError("invalid checksum digest length")
    if encoded.lower() != encoded:
        raise UsageError("invalid checksum digest format")
