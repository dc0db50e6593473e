"""Image configs as the Dockerfile frontend changes and writes them.

A config is read into the fields that BuildKit knows (the rest is lost, as there) and written as Go writes the struct
(BuildKit: vendor/github.com/moby/docker-image-spec/specs-go/v1, image-spec/specs-go/v1).
"""

from __future__ import annotations

from inlay import json
from inlay.golang import json as gojson
from inlay.platform import DEFAULT_PATH, Platform
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

COMMENT = "buildkit.dockerfile.v0"
"""The `comment` of every history entry that a Dockerfile makes."""

HistoryEntry = dict[str, object]


class Image:
    """An image config, to be changed in place by the stage that owns it.

    `exposed_ports` and `volumes` are sets kept as dicts; `healthcheck` has Go's field names, durations in ns.
    """

    __slots__ = (
        "_positions",
        "args_escaped",
        "author",
        "cmd",
        "created",
        "diff_ids",
        "entrypoint",
        "env",
        "exposed_ports",
        "healthcheck",
        "history",
        "labels",
        "on_build",
        "platform",
        "rootfs_type",
        "shell",
        "stop_signal",
        "user",
        "volumes",
        "working_dir",
    )

    def __init__(self, platform: Platform = Platform("", "")) -> None:  # noqa: B008 - it is immutable
        self.platform = platform
        self.created = self.author = self.rootfs_type = ""
        self.diff_ids: list[str] | None = None
        self.history: list[HistoryEntry] = []
        self.user = self.working_dir = self.stop_signal = ""
        self.exposed_ports: dict[str, object] = {}
        self.volumes: dict[str, object] = {}
        self.labels: dict[str, str] = {}
        self.env: list[str] = []
        self._positions: dict[str, int] = {}
        self.entrypoint: list[str] = []
        self.cmd: list[str] = []
        self.on_build: list[str] = []
        self.shell: list[str] = []
        self.args_escaped = False
        self.healthcheck: dict[str, Any] | None = None

    @classmethod
    def empty(cls, platform: Platform) -> Image:
        """What `FROM scratch` begins with."""
        image = cls(platform)
        image.rootfs_type = "layers"
        image.working_dir = "/"
        if platform.os != "windows":
            image.env = [f"PATH={DEFAULT_PATH}"]
        return image

    @classmethod
    def parse(cls, raw: bytes) -> Image:
        """Read a config. Raises `ValueError` where it is none."""
        return _read_image(raw)

    def copy(self) -> Image:
        """A config that a further stage can change without changing this one."""
        image = Image(self.platform)
        for name in Image.__slots__:
            value = getattr(self, name)
            setattr(image, name, value.copy() if isinstance(value, list | dict) else value)
        return image

    def set_env(self, name: str, value: str) -> None:
        """Set a variable where it stands, or put it last."""
        if len(self._positions) != len(self.env):
            # The first of several entries of one name is the one that counts.
            names = [entry.partition("=")[0] for entry in self.env]
            self._positions = {each: position for position, each in reversed(list(enumerate(names)))}
        entry = f"{name}={value}"
        position = self._positions.setdefault(name, len(self.env))
        self.env[position : position + 1] = [entry]

    def add_history(self, created_by: str, *, layer: bool, created: str) -> None:
        """Note an instruction; `created` is RFC 3339 or empty."""
        entry: HistoryEntry = {"created": created} if created else {}
        entry["created_by"] = created_by
        entry["comment"] = COMMENT
        if not layer:
            entry["empty_layer"] = True
        self.history.append(entry)

    @property
    def has_layers(self) -> bool:
        """False where neither the layers nor the history of the image have anything in them."""
        return bool(self.diff_ids) or any(not entry.get("empty_layer") for entry in self.history)

    def to_json(self) -> bytes:
        fields: dict[str, object] = {
            "created": self.created,
            "author": self.author,
            **_platform_fields(self.platform),
            "rootfs": {"type": self.rootfs_type, "diff_ids": self.diff_ids},
            "history": self.history,
        }
        kept = {name: value for name, value in fields.items() if value or name in ("architecture", "os")}
        kept["config"] = self._config()
        return gojson.dumps(kept).encode()

    def _config(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "User": self.user,
            "ExposedPorts": gojson.sorted_map(self.exposed_ports),
            "Env": self.env,
            "Entrypoint": self.entrypoint,
            "Cmd": self.cmd,
            "Volumes": gojson.sorted_map(self.volumes),
            "WorkingDir": self.working_dir,
            "Labels": gojson.sorted_map(self.labels),
            "StopSignal": self.stop_signal,
            "ArgsEscaped": self.args_escaped,
        }
        kept = {name: value for name, value in fields.items() if value}
        if self.healthcheck is not None:
            kept["Healthcheck"] = {name: value for name, value in self.healthcheck.items() if value}
        if self.on_build:
            kept["OnBuild"] = self.on_build
        if self.shell:
            kept["Shell"] = self.shell
        return kept


def _platform_fields(platform: Platform) -> dict[str, object]:
    return {
        "architecture": platform.architecture,
        "os": platform.os,
        "os.version": platform.os_version,
        "os.features": platform.os_features,
        "variant": platform.variant,
    }


def _read_image(raw: bytes) -> Image:
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise ValueError(str(error)) from None
    fields = _object(document, "Image")
    image = Image(
        Platform(
            _text(fields, "os"),
            _text(fields, "architecture"),
            _text(fields, "variant"),
            _text(fields, "os.version"),
            tuple(_texts(fields, "os.features")),
        )
    )
    image.created = _time(fields, "created")
    image.author = _text(fields, "author")
    image.history = [_history_entry(entry) for entry in _list(fields, "history")]
    rootfs = _object(fields.get("rootfs"), "rootfs")
    image.rootfs_type = _text(rootfs, "type")
    if rootfs.get("diff_ids") is not None:
        image.diff_ids = _texts(rootfs, "diff_ids")
    _read_config(image, _object(fields.get("config"), "config"))
    return image


def _read_config(image: Image, config: dict[str, Any]) -> None:
    image.user = _text(config, "user")
    image.exposed_ports = {
        port: {} for port in _object(config.get("exposedports"), "ExposedPorts", fold=False)
    }
    image.volumes = {volume: {} for volume in _object(config.get("volumes"), "Volumes", fold=False)}
    labels = _object(config.get("labels"), "Labels", fold=False)
    image.labels = {name: _text(labels, name) for name in labels}
    image.env = _texts(config, "env")
    image.entrypoint = _texts(config, "entrypoint")
    image.cmd = _texts(config, "cmd")
    image.on_build = _texts(config, "onbuild")
    image.shell = _texts(config, "shell")
    image.working_dir = _text(config, "workingdir")
    image.stop_signal = _text(config, "stopsignal")
    image.args_escaped = _typed(config, "argsescaped", bool, default=False)
    if config.get("healthcheck") is not None:
        image.healthcheck = _healthcheck(_object(config["healthcheck"], "Healthcheck"))


def _healthcheck(fields: dict[str, Any]) -> dict[str, Any]:
    check: dict[str, Any] = {"Test": _texts(fields, "test")}
    for name in ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"):
        check[name] = _typed(fields, name.lower(), int, default=0)
    return check


def _history_entry(value: object) -> HistoryEntry:
    fields = _object(value, "history")
    entry: HistoryEntry = {
        "created": _time(fields, "created"),
        "created_by": _text(fields, "created_by"),
        "author": _text(fields, "author"),
        "comment": _text(fields, "comment"),
        "empty_layer": _typed(fields, "empty_layer", bool, default=False),
    }
    return {name: value for name, value in entry.items() if value}


def _object(value: object, what: str, *, fold: bool = True) -> dict[str, Any]:
    """A JSON object; the names of a struct's fields match in any case, as in Go."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"json: cannot unmarshal {_kind(value)} into Go struct field {what}")
    return {name.lower(): item for name, item in value.items()} if fold else value


def _typed(fields: dict[str, Any], name: str, kind: Callable[..., Any], *, default: Any) -> Any:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        raise ValueError(f"json: cannot unmarshal {_kind(value)} into Go struct field {name}")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    text: str = _typed(fields, name, str, default="")
    return text


def _list(fields: dict[str, Any], name: str) -> list[Any]:
    items: list[Any] = _typed(fields, name, list, default=[])
    return items


def _texts(fields: dict[str, Any], name: str) -> list[str]:
    return [_text({name: item}, name) for item in _list(fields, name)]


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "bool"}
    return names.get(type(value), "number")


def _time(fields: dict[str, Any], name: str) -> str:
    """A time as Go writes it again: no zeros at the end of the fraction, `Z` for UTC."""
    text = _text(fields, name)
    if not text:
        return ""
    body, zone = (text[:-1], "Z") if text.endswith("Z") else (text[:-6], text[-6:])
    whole, _, fraction = body.partition(".")
    fraction = fraction.rstrip("0")
    if zone in ("+00:00", "-00:00"):
        zone = "Z"
    return f"{whole}.{fraction}{zone}" if fraction else whole + zone
