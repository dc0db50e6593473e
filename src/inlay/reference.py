"""Image names: what `alpine` is short for.

    parse("alpine").with_default_tag()    # Reference("docker.io", "library/alpine", tag="latest")
    str(parse("a/b@sha256:…"))            # docker.io/a/b@sha256:…
    parse("docker.io/library/alpine").familiar   # alpine

Source: vendor/github.com/distribution/reference of BuildKit.
"""

from __future__ import annotations

from inlay.errors import UsageError
from inlay.typing import NamedTuple

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
    if len(text) == 64 and not text.strip("0123456789abcdef"):
        raise UsageError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    repository = rest.partition(":")[0]
    if repository.lower() != repository:
        raise UsageError(f"invalid reference format: repository name ({repository}) must be lowercase")
    named, at, digest = rest.partition("@")
    path, colon, tag = named.partition(":")
    if not (is_path(path) and (not colon or is_tag(tag)) and (not at or _has_digest_shape(digest))):
        raise UsageError("invalid reference format")
    if not _is_domain(domain):
        if not is_path(domain.lower()):
            raise UsageError("invalid reference format")
        if domain.lower() != domain:
            raise UsageError("repository name must be lowercase")
        domain, path = "", f"{domain}/{path}"
    if len(path) > _MAX_PATH:
        raise UsageError(f"repository name must not be more than {_MAX_PATH} characters")
    if digest:
        _check_digest(digest)
    return Reference(domain, path, tag, digest)


def is_path(text: str) -> bool:
    """Whether `text` can be a repository's path: words of small letters and digits, between them slashes and `.`,
    `_`, `__` or dashes."""
    text = text.replace("__", "_")
    while "--" in text:
        text = text.replace("--", "-")
    words = text.translate(_SEPARATORS).split("/")
    return all(_is_word(word) and word == word.lower() for word in words)


_SEPARATORS = str.maketrans("._-", "///")


def is_tag(text: str) -> bool:
    words = text.translate(_IN_TAGS)
    return len(text) <= 128 and _is_word(words) and text[0] not in ".-"


_IN_TAGS = str.maketrans("_.-", "aaa")


def _is_domain(text: str) -> bool:
    """Whether `text` can be a host, perhaps with a port: labels between dots, or an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host = text
    elif not (port.isascii() and port.isdigit()):
        return False
    if host.startswith("[") and host.endswith("]"):
        return len(host) > 2 and not host[1:-1].strip("0123456789abcdefABCDEF:")
    labels = host.split(".")
    return all(_is_word(label.replace("-", "a")) and label.strip("-") == label for label in labels)


def _is_word(text: str) -> bool:
    return text.isascii() and text.isalnum()


def _has_digest_shape(text: str) -> bool:
    """Whether `text` is words that begin with a letter, then a colon and at least 32 hex digits."""
    algorithm, _, encoded = text.partition(":")
    words = algorithm.translate(_IN_ALGORITHMS).split("-")
    return (
        all(_is_word(word) and word[0].isalpha() for word in words)
        and len(encoded) >= 32
        and not encoded.strip("0123456789abcdefABCDEF")
    )


_IN_ALGORITHMS = str.maketrans("_+.", "---")


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


def _check_digest(digest: str) -> None:
    """Refuse what has the shape of a digest but is none that can be checked."""
    algorithm, _, encoded = digest.partition(":")
    length = {"sha256": 64, "sha384": 96, "sha512": 128}.get(algorithm)
    if length is None:
        words = algorithm.translate(_IN_ALGORITHMS).split("-")
        is_shaped = all(_is_word(word) and word == word.lower() for word in words)
        raise UsageError("unsupported digest algorithm" if is_shaped else "invalid checksum digest format")
    if len(encoded) != length:
        raise UsageError("invalid checksum digest length")
    if encoded.lower() != encoded:
        raise UsageError("invalid checksum digest format")
