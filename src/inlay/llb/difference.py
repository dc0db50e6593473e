"""What makes two steps different, field by field and in a Dockerfile's words.

Works on the JSON that op digests are made of (`keys.pre_image`), which is what is remembered of a step.
"""

from __future__ import annotations

import json
from base64 import b64decode
from itertools import zip_longest

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

Difference = tuple[str, str, str]
"""The name of a field, and its value in the one step and the other; empty where it has none."""

_EXEC, _FILE = "buildkit.exec.v0", "buildkit.file.v0"
_META = {
    "cwd": "working directory",
    "user": "user",
    "hostname": "host name",
    "cgroupParent": "cgroup parent",
    "validExitCodes": "exit codes",
    "removeMountStubsRecursive": "mount stubs",
}
_EXEC_FIELDS = {"network": "network", "security": "security", "cdiDevices": "devices"}
_NUMBERED = {"network": ("sandbox", "host", "none"), "security": ("sandbox", "insecure")}
_ACTION = {
    "src": "source",
    "dest": "destination",
    "mode": "mode",
    "modeStr": "mode",
    "data": "content",
    "include_patterns": "paths",
    "exclude_patterns": "--exclude",
    "attemptUnpackDockerCompatibility": "unpacking",
}
_KEEP_MODE = -1
_ORDER = "order of variables"


def kind_of(pre_image: str) -> str:
    """The type of the op."""
    kind = json.loads(pre_image).get("Type", "")
    return kind if isinstance(kind, str) else ""


def fields_of(pre_image: str, paths: Sequence[str] = ()) -> dict[str, str]:
    """The fields of a step as texts, by name. `paths` are what it reads of its inputs: of those the
    pre-image itself has only the last parts. Raises `ValueError` where the pre-image is none."""
    op = json.loads(pre_image)
    if not isinstance(op, dict):
        raise ValueError("not an op")
    kind = op.get("Type")
    fields = dict(_exec_fields(op) if kind == _EXEC else _file_fields(op) if kind == _FILE else ())
    if paths and kind == _FILE:
        fields["source"] = " ".join(paths)
    elif paths:
        fields["mounted paths"] = " ".join(paths)
    return fields


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    """The fields that differ, in their order; of texts of several lines the lines that do."""
    found: list[Difference] = []
    for name in sorted(dict.fromkeys((*after, *before)), key=_ORDER.__eq__):
        old, new = before.get(name, ""), after.get(name, "")
        if old == new or (name == _ORDER and found):
            continue
        if "\n" in old and "\n" in new:
            found += _lines(name, old, new)
        else:
            found.append((name, old, new))
    return found


def _exec_fields(op: dict[str, Any]) -> Iterator[tuple[str, str]]:
    step = op.get("Exec", {})
    meta = step.get("meta", {})
    yield from _arguments(meta.get("args", []))
    for entry in meta.get("env", []):
        name, _, value = entry.partition("=")
        yield f"variable {name}", value or '""'
    for name, title in _META.items():
        if name in meta:
            yield title, _text(meta[name])
    for host in meta.get("extraHosts", []):
        yield f"--add-host {host.get('Host', '')}", "given"
    for limit in meta.get("ulimit", []):
        yield f"--ulimit {limit.get('Name', '')}", f"{limit.get('Soft', 0)}:{limit.get('Hard', 0)}"
    for name, title in _EXEC_FIELDS.items():
        yield title, _NUMBERED[name][step.get(name, 0)] if name in _NUMBERED else _text(step.get(name, ""))
    for secret in step.get("secretenv", []):
        yield f"secret variable {secret.get('name', '')}", secret.get("ID", "")
    for mount in step.get("mounts", []):
        rest = {name: value for name, value in mount.items() if name != "dest"}
        if rest:
            yield f"mount {mount.get('dest', '')}", _text(rest)
    platform = [str(op[name]) for name in ("OS", "Arch", "Variant", "OSVersion") if op.get(name)]
    yield "platform", "/".join(platform)
    yield _ORDER, " ".join(entry.partition("=")[0] for entry in meta.get("env", []))


def _arguments(args: list[str]) -> Iterator[tuple[str, str]]:
    """A shell's command is told from the shell."""
    if len(args) > 2 and args[-2].startswith("-") and args[-2].endswith("c"):
        yield "command", args[-1]
        yield "shell", " ".join(args[:-1])
        return
    for number, argument in enumerate(args):
        yield f"argument {number}", argument


def _file_fields(op: dict[str, Any]) -> Iterator[tuple[str, str]]:
    actions = [json.loads(b64decode(text)) for text in op.get("Actions", [])]
    for number, action in enumerate(actions, start=1):
        which = f" ({number} of {len(actions)})" if len(actions) > 1 else ""
        for name, value in action.items():
            if name == "mode" and value == _KEEP_MODE:
                continue
            if name == "mode":
                yield f"mode{which}", f"{value:04o}"
            elif name == "data":
                yield f"content{which}", b64decode(value).decode(errors="replace")
            elif name == "owner":
                yield f"owner{which}", _owner(value)
            else:
                yield _ACTION.get(name, name) + which, _text(value)
    if "indexes" in op:
        yield "arrangement", _text(op["indexes"])


def _owner(owner: dict[str, Any]) -> str:
    def shown(side: str) -> str:
        user = owner.get(side, {}).get("User", {})
        return str(user.get("byName", {}).get("name", "") or user.get("byId", 0))

    return f"{shown('user')}:{shown('group')}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _lines(name: str, before: str, after: str) -> Iterator[Difference]:
    """The lines that differ, by the numbers that they have now."""
    from difflib import SequenceMatcher

    old, new = before.split("\n"), after.split("\n")
    for what, a, a_end, b, b_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what != "equal":
            for number, (left, right) in enumerate(
                zip_longest(old[a:a_end], new[b:b_end], fillvalue=""), start=b + 1
            ):
                if left or right:
                    yield f"{name}, line {number}", left, right
