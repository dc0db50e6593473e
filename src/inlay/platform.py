"""Platforms: what `linux/arm64/v8` means, and which image fits.

    parse("arm64")                        # Platform(os="linux", architecture="arm64")
    normalise(parse("linux/arm64/v8"))    # the same
    match_rank(parse("linux/arm/v7"), Platform("linux", "arm", "v6"))  # fits, though v7 would be better

Source: vendor/github.com/containerd/platforms of BuildKit.
"""

from __future__ import annotations

import os

from inlay.errors import UsageError
from inlay.golang.text import atoi, quote
from inlay.regexp import regexp
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for where an image does not say."""


class Platform(NamedTuple):
    """An operating system and a processor, in Go's words (`linux`, `amd64`)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Platform:
        """Read the OCI form: `architecture`, `os`, `variant`, `os.version`, `os.features`."""
        features = value.get("os.features")
        return cls(
            str(value.get("os") or ""),
            str(value.get("architecture") or ""),
            str(value.get("variant") or ""),
            str(value.get("os.version") or ""),
            tuple(str(feature) for feature in features) if isinstance(features, list) else (),
        )

    def to_json(self) -> dict[str, Any]:
        """The OCI form, with the fields in Go's order and the empty ones left out."""
        fields: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            fields["os.version"] = self.os_version
        if self.os_features:
            fields["os.features"] = list(self.os_features)
        if self.variant:
            fields["variant"] = self.variant
        return fields

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def host() -> Platform:
    """The platform that this process runs on, normalised."""
    if not _host:
        _host.append(_find_host())
    return _host[0]


_host: list[Platform] = []


def _find_host() -> Platform:
    machine = os.uname().machine.lower()
    if machine.startswith("armv"):
        return normalise(Platform("linux", "arm", machine[3:5]))
    return normalise(Platform("linux", _MACHINES.get(machine, machine)))


_MACHINES = {
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "loongarch64": "loong64",
    "mips64": "mips64le",
    "mips": "mipsle",
}
"""What the kernel calls a machine and Go calls otherwise, where `normalise` does not know it."""


def parse(text: str, *, default: Platform | None = None) -> Platform:
    """Read `os`, `architecture` or `os/architecture[/variant]`, where `os` may be `os(version+feature…)`.

    What is left out comes from `default`, the host if there is none. The result is not normalised: it keeps
    `v8` of `linux/arm64/v8`, and `linux/arm` has no variant. Raises `UsageError` with containerd's words.
    """
    if "*" in text:
        raise UsageError(f"{quote(text)}: wildcards not yet supported: invalid argument")
    first, *others = parts = text.split("/", 3)
    system = _parse_system(first, text)
    for part in others:
        if not part or part.strip(_IN_COMPONENTS):
            raise UsageError(
                f"{quote(part)} is an invalid component of {quote(text)}: "
                'platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument'
            )
    if len(parts) == 1:
        return _parse_half(first, system, default or host())
    if len(parts) == 2:
        return _with_architecture(system, others[0])
    if len(parts) == 3:
        architecture, variant = _normal_architecture(others[0], others[1])
        variant = variant or ("v8" if architecture == "arm64" else "")
        return system._replace(architecture=architecture, variant=variant)
    raise UsageError(f"{quote(text)}: cannot parse platform specifier: invalid argument")


_IN_COMPONENTS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"


def parse_wanted(texts: Iterable[str]) -> list[str]:
    """Check what somebody wants to build for, each platform once: `local` is the host, and what a processor is
    called elsewhere is understood (`x86_64`). Raises `UsageError` with what may have been meant."""
    wanted: dict[Platform, str] = {}
    for text in texts:
        platform = host() if text == "local" else _parse_known(text)
        wanted.setdefault(normalise(platform), str(host()) if text == "local" else text)
    return list(wanted.values())


def _parse_known(text: str) -> Platform:
    try:
        platform = parse(text)
    except UsageError as error:
        reason = str(error).removesuffix(": invalid argument")
        raise UsageError(f"--platform {text}: {reason}{_meant(text)}") from error
    variants = _VARIANTS.get(platform.architecture)
    if platform.os not in _SYSTEMS:
        unknown = f"operating system {quote(platform.os)}{_meant(text)}"
    elif platform.architecture not in _ARCHITECTURES:
        unknown = f"architecture {quote(platform.architecture)}{_meant(text)}"
    elif variants and platform.variant and not regexp(variants[0]).fullmatch(platform.variant):
        unknown = f"variant {quote(platform.variant)}; there are {variants[1]}"
    else:
        return platform
    raise UsageError(f"--platform {text}: unknown {unknown}")


def _meant(text: str) -> str:
    import difflib

    close = difflib.get_close_matches(text.lower(), _USUAL, cutoff=0.7)
    if text.isalnum():
        close += difflib.get_close_matches(f"linux/{text.lower()}", _USUAL, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else f"; such are {', '.join(_USUAL)}"


_VARIANTS = {
    "amd64": ("v[1-4]", "v1 to v4"),
    "arm": ("v[5-8]", "v5 to v8"),
    "arm64": (r"v[89](\.[0-9])?", "v8, v8.1 to v8.9, v9, v9.1 and so on"),
}
_USUAL = (
    *("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/386", "linux/riscv64"),
    *("linux/ppc64le", "linux/s390x", "linux/loong64", "linux/mips64le", "windows/amd64"),
)


_SYSTEM = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$"


def _parse_system(part: str, text: str) -> Platform:
    """Read `windows(10.0.17763+win32k)`."""
    if part.isascii() and part.isalnum():
        return Platform(_normal_system(part), "")
    match = regexp(_SYSTEM).fullmatch(part)
    if not match or part.endswith("\n"):
        raise UsageError(
            f"{quote(part)} is an invalid OS component of {quote(text)}: "
            f"OSAndVersion specifier component must match {quote(_SYSTEM)}: invalid argument"
        )
    try:
        version = _decoded(match[2] or "")
    except ValueError as error:
        raise UsageError(f"{quote(text)} has an invalid OS version {quote(match[2])}: {error}") from None
    features = []
    for feature in (match[3] or "").split("+")[1:]:
        try:
            features.append(_decoded(feature))
        except ValueError as error:
            reason = f"invalid os feature {quote(feature)}: {error}"
            raise UsageError(f"{quote(text)} has invalid OS features: {reason}") from None
    return Platform(_normal_system(match[1]), "", "", version, tuple(features))


def _decoded(option: str) -> str:
    """Undo percent encoding; raise `ValueError` where there is something else behind a percent sign."""
    if "%" not in option:
        return option
    if match := regexp("%(?![0-9A-Fa-f]{2})").search(option):
        raise ValueError(f"invalid URL escape {quote(option[match.start() : match.start() + 3])}")
    first, *others = option.encode().split(b"%")
    decoded = first + b"".join([bytes([int(other[:2], 16)]) + other[2:] for other in others])
    return decoded.decode(errors="surrogateescape")


def _parse_half(part: str, system: Platform, default: Platform) -> Platform:
    """A system or an architecture, whichever the word names."""
    if system.os in _SYSTEMS:
        variant = default.variant if default.architecture == "arm" and default.variant != "v7" else ""
        return system._replace(architecture=default.architecture, variant=variant)
    platform = _with_architecture(system._replace(os=default.os), part)
    if platform.architecture not in _ARCHITECTURES:
        raise UsageError(f"{quote(part)}: unknown operating system or architecture: invalid argument")
    return platform


# fmt: off
_SYSTEMS = frozenset((
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd",
    "openbsd", "plan9", "solaris", "windows", "zos",
))
_ARCHITECTURES = frozenset((
    "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "ppc64", "ppc64le", "loong64", "mips", "mipsle",
    "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64",
    "wasm",
))
# fmt: on


def _with_architecture(system: Platform, part: str) -> Platform:
    """Add an architecture without variant; `v7` goes without saying for arm."""
    architecture, variant = _normal_architecture(part, "")
    if (architecture, variant) == ("arm", "v7"):
        variant = ""
    return system._replace(architecture=architecture, variant=variant)


def normalise(platform: Platform) -> Platform:
    """The one spelling of a platform: Go's names, and no variant where it goes without saying."""
    architecture, variant = _normal_architecture(platform.architecture, platform.variant)
    features = tuple(sorted(set(platform.os_features)))
    return Platform(_normal_system(platform.os), architecture, variant, platform.os_version, features)


def _normal_system(name: str) -> str:
    name = name.lower() or "linux"
    return "darwin" if name == "macos" else name


def _normal_architecture(name: str, variant: str) -> tuple[str, str]:
    name, variant = name.lower(), variant.lower()
    if name == "i386":
        return "386", ""
    if name in ("x86_64", "x86-64", "amd64"):
        return "amd64", "" if variant == "v1" else variant
    if name in ("aarch64", "arm64"):
        return "arm64", _ARM64_VARIANTS.get(variant, variant)
    if name == "armhf":
        return "arm", "v7"
    if name == "armel":
        return "arm", "v6"
    if name == "arm":
        return "arm", _ARM_VARIANTS.get(variant, variant)
    return name, variant


_ARM64_VARIANTS = {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"}
_ARM_VARIANTS = {"": "v7", "7": "v7", "5": "v5", "6": "v6", "8": "v8"}


def format_platform(platform: Platform) -> str:
    """`os(version+features)/architecture/variant`, without what is empty; `str()` leaves the brackets out."""
    if not platform.os:
        return "unknown"
    features = sorted({feature for feature in platform.os_features if feature})
    options = "+".join([_encoded(platform.os_version), *map(_encoded, features)])
    system = f"{platform.os}({options})" if options else platform.os
    return "/".join(part for part in (system, platform.architecture, platform.variant) if part)


def _encoded(option: str) -> str:
    return "".join([f"%{ord(char):02X}" if char in "%+()/" else char for char in option])


def match_rank(wanted: Platform, offered: Platform) -> int | None:
    """How well what is `offered` serves who `wanted` a platform: 0 is best; None where it does not run there.

    amd64 takes older levels of amd64, then 386; arm older versions of arm; arm64 older versions of arm64,
    then arm. Among equals, the one with more of the wanted OS features is better (containerd's `Only`).
    """
    wanted, offered = normalise(wanted), normalise(offered)
    features = [feature for feature in offered.os_features if (wanted.os, feature) != ("windows", "win32k")]
    if wanted.os != offered.os or not set(features) <= set(wanted.os_features):
        return None
    if wanted.os == "windows" and not _is_same_windows(wanted.os_version, offered.os_version):
        return None
    try:
        place = _successors(wanted.architecture, wanted.variant).index(
            (offered.architecture, offered.variant)
        )
    except ValueError:
        return None
    return place * (len(wanted.os_features) + 1) + len(wanted.os_features) - len(features)


def _is_same_windows(wanted: str, offered: str) -> bool:
    """Whether versions agree up to the build; containerd also knows of later builds that run older images."""
    return not wanted or not offered or wanted.split(".")[:3] == offered.split(".")[:3]


def _successors(architecture: str, variant: str) -> list[tuple[str, str]]:
    """What a processor runs, best first, normalised."""
    if architecture == "amd64":
        level = atoi(variant.removeprefix("v")) or 1
        older = [_normal_architecture("amd64", f"v{number}") for number in range(min(level, 99) - 1, 0, -1)]
        return [("amd64", variant), *older, ("386", "")]
    if architecture == "arm":
        version = atoi(variant.removeprefix("v")) or 0
        return [("arm", variant), *(("arm", f"v{number}") for number in range(min(version, 99) - 1, 4, -1))]
    if architecture != "arm64":
        return [(architecture, variant)]
    first, dot, second = (variant or "v8").partition(".")
    if first not in ("v8", "v9") or (dot and (len(second) != 1 or second not in "0123456789")):
        return []
    major, minor = int(first[1:]), int(second or 0)
    if major == 9 and minor > 7:
        return []
    versions = [f"v{major}.{number}" for number in range(minor, -1, -1)]
    if major == 9:
        versions += [f"v8.{number}" for number in range(min(minor + 5, 9), -1, -1)]
    return [*(_normal_architecture("arm64", version) for version in versions), *_successors("arm", "v8")]
