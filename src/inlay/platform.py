"""Platforms: what `linux/arm64/v8` means, and which image fits (spec/cache.md 1.1, spec/frontend.md 5)."""

from __future__ import annotations

from typing import Any, NamedTuple


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


def normalise(p: Platform) -> Platform:
    os = (p.os or "linux").lower(); os = "darwin" if os == "macos" else os
    a, v = p.architecture.lower(), p.variant.lower()
    if a == "i386": a, v = "386", ""
    elif a in ("x86_64", "x86-64", "amd64"): a = "amd64"; v = "" if v == "v1" else v
    elif a in ("aarch64", "arm64"):
        a = "arm64"
        v = "" if v in ("8", "v8", "v8.0") else "v9" if v in ("9", "9.0", "v9.0") else v
    elif a == "armhf": a, v = "arm", "v7"
    elif a == "armel": a, v = "arm", "v6"
    elif a == "arm":
        if v in ("", "7"): v = "v7"
        elif v in ("5", "6", "8"): v = "v" + v
    return p._replace(os=os, architecture=a, variant=v, os_features=tuple(sorted(set(p.os_features))))


def parse(text: str) -> Platform:
    import re
    from inlay.errors import UsageError
    if "*" in text: raise UsageError(f'"{text}": wildcards not yet supported: invalid argument')
    from inlay.gotext import quote
    parts = text.split("/", 3)
    osre = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$"
    m = re.match(osre[:-1] + r"\Z", parts[0])
    if not m: raise UsageError(f"{quote(parts[0])} is an invalid OS component of {quote(text)}: OSAndVersion specifier component must match {quote(osre)}: invalid argument")
    for part in parts[1:]:
        if not re.match(r"[A-Za-z0-9_.-]+\Z", part): raise UsageError(f'{quote(part)} is an invalid component of {quote(text)}: platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument')
    os = m[1].lower(); os = "darwin" if os == "macos" else os
    ver = m[2] or ""
    if len(parts) == 1:
        if os in "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris windows zos".split():
            return Platform(os, "amd64", "", ver)
        q = normalise(Platform("linux", parts[0]))
        if q.architecture == "arm" and q.variant == "v7": q = q._replace(variant="")
        if q.architecture in "386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le ppc riscv riscv64 s390 s390x sparc sparc64 wasm".split():
            return q._replace(os="linux", os_version=ver)
        raise UsageError(f'{quote(text)}: unknown operating system or architecture: invalid argument')
    if len(parts) > 3: raise UsageError(f'{quote(text)}: cannot parse platform specifier: invalid argument')
    q = normalise(Platform(os, parts[1], parts[2] if len(parts) == 3 else "", ver))
    if len(parts) == 2 and q.architecture == "arm" and q.variant == "v7": q = q._replace(variant="")
    if len(parts) == 3 and q.architecture == "arm64" and not q.variant: q = q._replace(variant="v8")
    return q


def format_platform(p: Platform) -> str:
    if not p.os: return "unknown"
    o = p.os + (f"({p.os_version})" if p.os_version else "")
    return "/".join(x for x in (o, p.architecture, p.variant) if x)


def host() -> Platform:
    return Platform("linux", "amd64")
