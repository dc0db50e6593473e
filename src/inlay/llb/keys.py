"""What an op's cache key is made of: its digest, and for each input a selector and what of its tree counts.

BuildKit: solver/llbsolver/ops/{exec,file,merge,diff}.go `CacheMap`, source/*/ `CacheKey`. Pure functions:
the digests of the trees that the content selectors choose are taken elsewhere.
"""

from __future__ import annotations

from inlay.digest import Digest
from inlay.errors import SolveError
from inlay.golang import json as gojson
from inlay.golang.patterns import clean, has_wildcard
from inlay.llb.ops import (
    BIND,
    CONTENT_CACHE_DEFAULT,
    CONTENT_CACHE_OFF,
    CONTENT_CACHE_ON,
    EMPTY,
    NO_OUTPUT,
    SECRET,
    SHARED,
    SSH,
    TMPFS,
    Copy,
    DiffOp,
    ExecOp,
    FileOp,
    MakeDirectory,
    MakeFile,
    MergeOp,
    Mount,
    Op,
)
from inlay.llb.schema import BOOL, BYTES, FIELDS, INT, INTS, MESSAGE, STRING, STRINGS, USER
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from inlay.llb.ops import FileAction, User
    from inlay.platform import Platform


class ContentSelector(NamedTuple):
    """A part of a tree. The digest is taken at `"/" + path`, cleaned."""

    path: str
    follow_links: bool = False
    wildcard: bool = False
    include_patterns: tuple[str, ...] = ()
    exclude_patterns: tuple[str, ...] = ()
    required_paths: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """True where it names one path, and does not choose among several."""
        return not (self.wildcard or self.include_patterns or self.exclude_patterns)


WHOLE_TREE = (ContentSelector("/"),)


class InputKey(NamedTuple):
    """One input: the selector that goes with its definition key, and what of its content would do instead."""

    selector: Digest | str = ""
    content: tuple[ContentSelector, ...] | None = None
    """None: only the input's own key will do. The content digest is that of all digests, joined by NUL."""
    guard: str = ""
    """What `content` does not tell: BuildKit leaves out which path is used where, and paths below others. Two ops
    of one digest whose guards differ do different things with the same content."""


class OpKey(NamedTuple):
    digest: Digest
    inputs: tuple[InputKey, ...] = ()


def cache_map(op: Op, platform: Platform | None, input_count: int) -> OpKey:
    """The key of an op with `input_count` inputs; sources have keys of their own (`image_keys` and so on).

    `platform` is the op's own, normalised, or this machine's. Raises `SolveError` for a wrong index.
    """
    digest = Digest.of(pre_image(op, platform, input_count))
    if isinstance(op, ExecOp):
        return OpKey(digest, _exec_inputs(op, input_count))
    if isinstance(op, FileOp):
        return OpKey(digest, _file_inputs(op, input_count))
    if isinstance(op, MergeOp):
        return OpKey(digest, (InputKey(),) * len(op.inputs))
    if isinstance(op, DiffOp):
        count = sum(side is not None and side.input != EMPTY for side in op)
        return OpKey(digest, (InputKey(),) * count)
    raise TypeError("a source op has no cache map")


def pre_image(op: Op, platform: Platform | None, input_count: int) -> str:
    """The JSON whose digest is the op's digest."""
    if isinstance(op, ExecOp):
        return _exec_json(op, platform)
    if isinstance(op, FileOp):
        return _file_json(op, input_count)
    if isinstance(op, MergeOp):
        return f'{{"Type":"buildkit.merge.v0","Merge":{message_json(op)}}}'
    if isinstance(op, DiffOp):
        return f'{{"Type":"buildkit.diff.v0","Diff":{message_json(op)}}}'
    raise TypeError("a source op has no cache map")


def message_json(message: tuple[Any, ...]) -> str:
    """One message of `ops` as Go marshals it: empty fields are left out, an empty message is `{}`."""
    parts = [
        f'"{name}":{_field_json(kind, value)}'
        for value, (_, kind, name, _) in zip(message, FIELDS[type(message)], strict=True)
        if value
    ]
    return "{" + ",".join(parts) + "}"


def _field_json(kind: int, value: Any) -> str:
    if kind == STRING:
        return gojson.text(value)
    if kind == INT:
        return str(value)
    if kind == BOOL:
        return "true"
    if kind == MESSAGE:
        return message_json(value)
    if kind == USER:
        return _user_json(value)
    if kind in (BYTES, STRINGS, INTS):
        return gojson.dumps(value)
    return "[" + ",".join([message_json(item) for item in value]) + "]"


def _user_json(user: User) -> str:
    if user.name is None:
        return f'{{"User":{{"byId":{user.id}}}}}' if user.id else '{"User":{}}'
    named = f'"name":{gojson.text(user.name)}' if user.name else ""
    if user.input:
        named += f'{"," if named else ""}"input":{user.input}'
    return f'{{"User":{{"byName":{{{named}}}}}}}'


def _exec_json(op: ExecOp, platform: Platform | None) -> str:
    if platform is None or op.meta is None:
        raise SolveError("an exec op needs a platform and a process")
    hosts = tuple(host._replace(ip="") for host in op.meta.extra_hosts)
    keyed = op._replace(
        meta=op.meta._replace(proxy_env=None, extra_hosts=hosts),
        mounts=() if _is_root_only(op.mounts) else tuple(map(_keyed_mount, op.mounts)),
    )
    rest = gojson.dumps(platform_fields(platform))[1:]
    return f'{{"Type":"buildkit.exec.v0","Exec":{message_json(keyed)},{rest}'


def platform_fields(platform: Platform) -> dict[str, object]:
    """A platform's part of a key's JSON; both images and exec ops have it."""
    fields: dict[str, object] = {"OS": platform.os, "Arch": platform.architecture}
    if platform.variant:
        fields["Variant"] = platform.variant
    if platform.os_version:
        fields["OSVersion"] = platform.os_version
    if platform.os_features:
        fields["OSFeatures"] = platform.os_features
    return fields


def _is_root_only(mounts: Sequence[Mount]) -> bool:
    """True for a plain RUN's mounts, which old releases left out of the key."""
    if len(mounts) != 1:
        return False
    mount = mounts[0]
    options = (mount.cache, mount.ssh, mount.secret)
    return (
        mount.dest == "/"
        and not mount.readonly
        and mount.type == BIND
        and options == (None, None, None)
        and not mount.result_id
    )


def _keyed_mount(mount: Mount) -> Mount:
    """The mount without its selector, which the input's key holds, and without a cache id of the user's."""
    mount = mount._replace(selector="")
    cache = mount.cache
    if cache is None:
        return mount
    _, slash, name = cache.id.partition("/")
    by_default = cache.id == mount.dest or (slash and name == mount.dest)
    if by_default and cache.sharing == SHARED:
        return mount
    return mount._replace(cache=cache._replace(id="", sharing=SHARED))


def _exec_inputs(op: ExecOp, count: int) -> tuple[InputKey, ...]:
    selected: list[list[str]] = [[] for _ in range(count)]
    by_content = [False] * count
    for mount in op.mounts:
        if mount.type in (SECRET, SSH, TMPFS) or mount.input == EMPTY:
            continue
        if not 0 <= mount.input < count:
            raise SolveError(f"the mount at {mount.dest} wants input {mount.input} of {count}")
        path = clean("/" + mount.selector)
        selected[mount.input].append(path)
        by_content[mount.input] = _counts_by_content(mount, path)
    return tuple(
        _exec_input(paths, by_content=counts) for paths, counts in zip(selected, by_content, strict=True)
    )


def _counts_by_content(mount: Mount, path: str) -> bool:
    """True where the step can see nothing of the input but what the selectors choose."""
    safe = mount.output == NO_OUTPUT or mount.readonly or path == "/"
    if mount.content_cache == CONTENT_CACHE_ON and not safe:
        raise SolveError(f"the mount at {mount.dest} cannot be cached by its content")
    if mount.content_cache == CONTENT_CACHE_OFF:
        return False
    return safe and not (mount.content_cache == CONTENT_CACHE_DEFAULT and mount.dest == "/")


def _exec_input(paths: list[str], *, by_content: bool) -> InputKey:
    selector = Digest.of("\0".join(paths).encode(errors="surrogateescape")) if paths else ""
    if not by_content:
        return InputKey(selector)
    kept = _outermost(paths)
    guard = _guard(paths)
    if "/" in kept:
        return InputKey(selector, WHOLE_TREE, guard)
    return InputKey(selector, tuple(ContentSelector(path, follow_links=True) for path in kept), guard)


def _guard(paths: Sequence[str]) -> str:
    if len(paths) < 2:
        return ""
    return Digest.of("\0".join(paths).encode(errors="surrogateescape")).hex[:16]


def _outermost(paths: Sequence[str]) -> list[str]:
    """Each path once and sorted, without those below another one; a single path stays as it is."""
    if len(paths) < 2:
        return list(paths)
    distinct = set(paths)
    below = {
        path
        for path in distinct
        for other in distinct
        if path != other and path.startswith(_as_folder(other))
    }
    return sorted(distinct - below, key=_path_bytes)


def _as_folder(path: str) -> str:
    return path if path.endswith("/") else path + "/"


def _path_bytes(path: str) -> bytes:
    return path.encode(errors="surrogateescape")


def _file_json(op: FileOp, input_count: int) -> str:
    actions = [message_json(_keyed_action(action, input_count)).encode() for action in op.actions]
    fields: dict[str, object] = {"Type": "buildkit.file.v0", "Actions": actions}
    indexes = [(action.input, action.secondary_input, action.output) for action in op.actions]
    if indexes and not _is_default_layout(indexes):
        fields["indexes"] = indexes
    return gojson.dumps(fields)


def _keyed_action(action: FileAction, input_count: int) -> tuple[Any, ...]:
    if not isinstance(action.action, Copy) or not _copies_input(action, input_count):
        return action.action
    return action.action._replace(src=base_name(action.action.src))


def _copies_input(action: FileAction, input_count: int) -> bool:
    return (
        isinstance(action.action, Copy)
        and action.secondary_input != EMPTY
        and action.secondary_input < input_count
    )


def _is_default_layout(indexes: Sequence[tuple[int, int, int]]) -> bool:
    """True for the layout that old releases, which left indexes out of the key, made most."""
    last = len(indexes) - 1
    for position, (base, source, output) in enumerate(indexes):
        if base != (0 if position == 0 else len(indexes) + position - 1):
            return False
        if source not in (-1, 1) or output != (0 if position == last else -1):
            return False
    return True


def _file_inputs(op: FileOp, count: int) -> tuple[InputKey, ...]:
    bases = {action.input for action in op.actions}
    selectors: dict[int, list[ContentSelector]] = {}
    for action in op.actions:
        for index, selector in _file_selectors(action, count):
            selectors.setdefault(index, []).append(selector)
    if EMPTY in selectors:
        raise SolveError(
            "users and groups cannot be looked up by name where nothing lies below (scratch, --link); use numbers"
        )
    for index in selectors:
        if not 0 <= index < count:
            raise SolveError(f"a file op wants input {index} of {count}")
    return tuple(
        _file_input(selectors[index]) if index in selectors and index not in bases else InputKey()
        for index in range(count)
    )


def _file_selectors(action: FileAction, count: int) -> Iterable[tuple[int, ContentSelector]]:
    """What `action` reads of which input."""
    if isinstance(action.action, Copy | MakeFile | MakeDirectory) and action.action.owner is not None:
        for user, path in zip(action.action.owner, ("/etc/passwd", "/etc/group"), strict=True):
            if user is not None and user.name is not None:
                yield user.input, ContentSelector(path, follow_links=True)
    copy = action.action
    if isinstance(copy, Copy) and _copies_input(action, count):
        yield (
            action.secondary_input,
            ContentSelector(
                copy.src,
                copy.follow_symlink,
                copy.allow_wildcard and has_wildcard(copy.src),
                copy.include_patterns,
                copy.exclude_patterns,
                copy.required_paths,
            ),
        )


def _file_input(selectors: list[ContentSelector]) -> InputKey:
    paths = sorted((_path_bytes(selector.path) for selector in selectors), reverse=True)
    plain = [
        ContentSelector(path, follow_links=follow)
        for follow in (False, True)
        for path in _outermost([s.path for s in selectors if s.is_plain and s.follow_links == follow])
    ]
    content = plain + [selector for selector in selectors if not selector.is_plain]
    content.sort(key=lambda selector: _path_bytes(selector.path))
    guard = _guard([selector.path for selector in selectors])
    return InputKey(Digest.of(b"\0".join(paths)), tuple(content), guard)


def base_name(path: str) -> str:
    """Go's `path.Base`: `/` stays, nothing becomes `.`, slashes at the end do not count."""
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"
