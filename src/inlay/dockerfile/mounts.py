"""`RUN --mount` (BuildKit: frontend/dockerfile/instructions/commands_runmount.go)."""

from __future__ import annotations

from inlay.dockerfile.literals import parse_bool, parse_csv, parse_size, parse_uint
from inlay.dockerfile.suggest import suggest
from inlay.errors import DockerfileError
from inlay.golang.text import quote
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARINGS = ("shared", "private", "locked")
_KEYS = (
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
)
_SHORT = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}


class MountOptions(NamedTuple):
    """One `--mount`, expanded. `source_stage` is its `from`; None for what was not given."""

    type: str = "bind"
    source_stage: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = False
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


def check_mount(text: str) -> str:
    """Check what can be checked before variables are known; return the mount's `from`."""
    source_stage = ""
    for field in _fields(text):
        key, equals, value = field.partition("=")
        if not equals or key.lower() != "from":
            continue
        if 0 <= value.find("$") < len(value) - 1:
            raise DockerfileError("'from' doesn't support variable expansion, define alias stage instead")
        source_stage = value
    return source_stage


def read_mount(text: str, expand: Callable[[str], str]) -> MountOptions:
    """Read `type=cache,target=/x`, each value expanded. Raises `DockerfileError`."""
    reader = _Reader()
    for field in _fields(text):
        key, equals, value = field.partition("=")
        if equals:
            reader.set(key.lower(), expand(value), field)
        else:
            reader.switch(key.lower(), field)
    return reader.finish()


def _fields(text: str) -> list[str]:
    try:
        return parse_csv(text)
    except ValueError as error:
        raise DockerfileError(f"failed to parse csv mounts: {error}") from None


class _Reader:
    """Takes a mount's fields in the order written: some are allowed only after `type` said so."""

    __slots__ = ("_options", "_readonly", "_type")

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._readonly: bool | None = None
        self._type = "bind"

    def switch(self, key: str, field: str) -> None:
        if key in ("readonly", "ro"):
            self._readonly = True
        elif key in ("readwrite", "rw"):
            self._readonly = False
        elif key == "required":
            self._allow(key, "secret", "ssh")
            self._options[key] = True
        else:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair")

    def set(self, key: str, value: str, field: str) -> None:
        if key not in _KEYS:
            hint = suggest(key, _KEYS)
            raise DockerfileError(f"unexpected key '{key}' in '{field}'", hint=hint)
        name = _SHORT.get(key, key)
        if name in ("mode", "uid", "gid"):
            self._options[name] = _number(name, value)
        elif name in ("readonly", "readwrite"):
            self._readonly = self._bool(key, value) == (name == "readonly")
        elif name == "required":
            self._allow(key, "secret", "ssh")
            self._options[name] = self._bool(key, value)
        elif name == "size":
            self._allow(key, "tmpfs")
            self._options[name] = _size(value)
        else:
            self._set_text(name, value)

    def _set_text(self, name: str, value: str) -> None:
        if name == "type":
            self._type = _choice("mount type", value, _TYPES)
        elif name == "sharing":
            self._options[name] = _choice("sharing value", value, _SHARINGS)
        else:
            self._options["source_stage" if name == "from" else name] = value

    def _allow(self, key: str, *types: str) -> None:
        if self._type not in types:
            raise DockerfileError(f"unexpected key '{key}' for mount type '{self._type}'")

    def _bool(self, key: str, value: str) -> bool:
        try:
            return parse_bool(value)
        except ValueError:
            raise DockerfileError(f"invalid value for {key}: {value}") from None

    def finish(self) -> MountOptions:
        readonly = self._readonly
        if readonly is None:
            readonly = self._type not in ("cache", "tmpfs")
        mount = MountOptions(type=self._type, readonly=readonly, **self._options)
        if mount.type not in ("secret", "ssh", "cache"):
            for name in ("mode", "uid", "gid"):
                if getattr(mount, name) is not None:
                    raise DockerfileError(f"{name} not allowed for {quote(mount.type)} type mounts")
        if mount.type == "secret":
            _check_secret(mount)
        if mount.sharing and mount.type != "cache":
            raise DockerfileError(f"invalid cache sharing set for {mount.type} mount")
        return mount


def check_device(text: str) -> None:
    """Check a `--device`, which this frontend, as BuildKit's, can only refuse later."""
    name = ""
    try:
        fields = parse_csv(text)
    except ValueError as error:
        raise DockerfileError(f"failed to parse csv devices: {error}") from None
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "required":
            try:
                parse_bool(value if equals else "true")
            except ValueError:
                raise DockerfileError(f"invalid value for {key}: {value}") from None
        elif equals and key == "name":
            if name:
                raise DockerfileError(f"device name already set to {name}")
            name = value
        elif not name:
            name = field
        elif equals:
            hint = suggest(key, ("name", "required"))
            raise DockerfileError(f"unexpected key '{key}' in '{field}'", hint=hint)
        else:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair")


def _number(name: str, value: str) -> int:
    try:
        return parse_uint(value, base=8 if name == "mode" else 10, bits=32)
    except ValueError:
        raise DockerfileError(f"invalid value {value} for {name}") from None


def _size(value: str) -> int:
    try:
        return parse_size(value)
    except ValueError:
        raise DockerfileError(f"invalid value for size: {value}") from None


def _choice(what: str, value: str, choices: tuple[str, ...]) -> str:
    if value.lower() not in choices:
        raise DockerfileError(f"unsupported {what} {quote(value)}", hint=suggest(value, choices))
    return value.lower()


def _check_secret(mount: MountOptions) -> None:
    if mount.source_stage:
        raise DockerfileError("secret mount should not have a from")
    if mount.sharing:
        raise DockerfileError("secret mount should not define sharing")
    if not (mount.source or mount.target or mount.id):
        raise DockerfileError("invalid secret mount. one of source, target required")
    if mount.source and mount.id:
        raise DockerfileError("both source and id can't be set")
