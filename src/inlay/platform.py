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
