"""How each op's fields are numbered and spelled (BuildKit: solver/pb/ops.proto).

`FIELDS` has for each message its fields in the order of its NamedTuple.
"""

from __future__ import annotations

from inlay.llb.ops import (
    CacheOption,
    Copy,
    Device,
    DiffOp,
    ExecOp,
    FileAction,
    FileOp,
    HostIP,
    InputRef,
    MakeDirectory,
    MakeFile,
    MergeOp,
    Meta,
    Mount,
    Owner,
    ProxyEnv,
    Remove,
    SecretEnv,
    SecretOption,
    SourceOp,
    Symlink,
    TmpfsOption,
    Ulimit,
    User,
)

INT, BOOL, STRING, BYTES, MESSAGE, STRINGS, MESSAGES, INTS, MAP, USER, ACTION = range(11)

Field = tuple[int, int, str, type | None]
"""(number, kind, name in JSON, the message's class)"""

_KINDS = {"i": INT, "b": BOOL, "s": STRING, "y": BYTES, "s*": STRINGS, "i*": INTS, "m": MAP, "U": USER}


def _fields(text: str, **messages: type) -> tuple[Field, ...]:
    """Read `number name kind` triples; a key of `messages` is a kind too; `*` makes it a list."""
    fields: list[Field] = []
    for triple in text.split(", "):
        number, name, kind = triple.split()
        if kind in _KINDS:
            fields.append((int(number), _KINDS[kind], name, None))
        else:
            fields.append(
                (int(number), MESSAGES if kind[-1] == "*" else MESSAGE, name, messages[kind.rstrip("*")])
            )
    return tuple(fields)


FIELDS: dict[type, tuple[Field, ...]] = {
    SourceOp: _fields("1 identifier s, 2 attrs m"),
    ExecOp: _fields(
        "1 meta M, 2 mounts T*, 3 network i, 4 security i, 5 secretenv S*, 6 cdiDevices D*",
        M=Meta, T=Mount, S=SecretEnv, D=Device,
    ),
    Meta: _fields(
        "1 args s*, 2 env s*, 3 cwd s, 4 user s, 5 proxy_env P, 6 extraHosts H*, 7 hostname s, 9 ulimit L*, "
        "10 cgroupParent s, 11 removeMountStubsRecursive b, 12 validExitCodes i*",
        P=ProxyEnv, H=HostIP, L=Ulimit,
    ),
    ProxyEnv: _fields("1 http_proxy s, 2 https_proxy s, 3 ftp_proxy s, 4 no_proxy s, 5 all_proxy s"),
    HostIP: _fields("1 Host s, 2 IP s"),
    Ulimit: _fields("1 Name s, 2 Soft i, 3 Hard i"),
    SecretEnv: _fields("1 ID s, 2 name s, 3 optional b"),
    Device: _fields("1 name s, 2 optional b"),
    Mount: _fields(
        "1 input i, 2 selector s, 3 dest s, 4 output i, 5 readonly b, 6 mountType i, "
        "19 TmpfsOpt T, 20 cacheOpt C, 21 secretOpt S, 22 SSHOpt S, 23 resultID s, 24 contentCache i",
        T=TmpfsOption, C=CacheOption, S=SecretOption,
    ),
    TmpfsOption: _fields("1 size i"),
    CacheOption: _fields("1 ID s, 2 sharing i"),
    SecretOption: _fields("1 ID s, 2 uid i, 3 gid i, 4 mode i, 5 optional b"),
    FileOp: _fields("2 actions A*", A=FileAction),
    FileAction: (*_fields("1 input i, 2 secondaryInput i, 3 output i"), (0, ACTION, "action", None)),
    Copy: _fields(
        "1 src s, 2 dest s, 3 owner O, 4 mode i, 5 followSymlink b, 6 dirCopyContents b, "
        "7 attemptUnpackDockerCompatibility b, 8 createDestPath b, 9 allowWildcard b, "
        "10 allowEmptyWildcard b, 11 timestamp i, 12 include_patterns s*, 13 exclude_patterns s*, "
        "14 alwaysReplaceExistingDestPaths b, 15 modeStr s, 16 required_paths s*",
        O=Owner,
    ),
    MakeFile: _fields("1 path s, 2 mode i, 3 data y, 4 owner O, 5 timestamp i", O=Owner),
    MakeDirectory: _fields("1 path s, 2 mode i, 3 makeParents b, 4 owner O, 5 timestamp i", O=Owner),
    Remove: _fields("1 path s, 2 allowNotFound b, 3 allowWildcard b"),
    Symlink: _fields("1 oldpath s, 2 newpath s, 3 owner O, 4 timestamp i", O=Owner),
    Owner: _fields("1 user U, 2 group U"),
    User: _fields("1 name s, 2 input i"),
    MergeOp: _fields("1 inputs I*", I=InputRef),
    DiffOp: _fields("1 lower I, 2 upper I", I=InputRef),
    InputRef: _fields("1 input i"),
}  # fmt: skip

ACTIONS: dict[type, int] = {Copy: 4, MakeFile: 5, MakeDirectory: 6, Remove: 7, Symlink: 8}
"""The number of each action in FileAction's oneof."""
OPS: dict[type, int] = {ExecOp: 2, SourceOp: 3, FileOp: 4, MergeOp: 6, DiffOp: 7}
"""The number of each op in Op's oneof."""
