"""The notation of flags: reads the texts that `inlay build` and `inlay.build` take. What is wrong is a `UsageError`.

It is docker buildx's: comma separated fields, a field in double quotes may hold commas.
"""

from __future__ import annotations

import os

from inlay.errors import UsageError
from inlay.golang.text import parse_bool
from inlay.request import (
    ALLOW_NETWORK_HOST,
    ALLOW_SECURITY_INSECURE,
    Option,
    Secret,
    SshForward,
)
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from inlay.request import BuildRequest


def split_fields(text: str) -> list[str]:
    """Split at commas, as one line of CSV."""
    if '"' not in text:
        return text.split(",")
    import csv

    try:
        return next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise UsageError(f"{text!r} is no comma separated list: {error}") from error


def parse_option(text: str, *, flag: str, types: Sequence[str], shorthand: Callable[[str], Option]) -> Option:
    """Read `type=…,key=value,…`. A single field without `=` goes to `shorthand`."""
    fields = split_fields(text)
    if len(fields) == 1 and "=" not in fields[0]:
        return shorthand(fields[0])
    pairs: list[tuple[str, str]] = []
    kind = ""
    for field in fields:
        key, separator, value = field.partition("=")
        key = key.strip().lower()
        if not separator:
            raise UsageError(f"{flag} {text}: {field!r} should be key=value")
        if key == "type":
            kind = value
        else:
            pairs.append((key, value))
    if kind not in types:
        raise UsageError(f"{flag} {text}: type must be one of {', '.join(types)}, not {kind!r}")
    return Option(kind, tuple(pairs))


def separate_caches(texts: Iterable[str]) -> list[str]:
    """The caches that flags name, one each: an empty flag is none, and references may share one, as with buildx."""
    separate: list[str] = []
    for text in filter(None, texts):
        separate += [text] if "=" in text else split_fields(text)
    return separate


def parse_cache_from(text: str) -> Option:
    """`type=registry,ref=…`, `type=local,src=…`, or just a reference as docker users write it."""
    option = parse_option(
        text, flag="--cache-from", types=("registry", "local", "oci-layout"), shorthand=_registry_shorthand
    )
    required = {"registry": "ref", "local": "src", "oci-layout": "src"}[option.type]
    if not option.get(required):
        raise UsageError(f"--cache-from {text}: {required}=… is missing")
    return option


def _registry_shorthand(text: str) -> Option:
    return Option("registry", (("ref", text),))


def parse_cache_to(text: str) -> Option:
    """`type=inline`, `type=registry,ref=…`, `type=local,dest=…`, or just a reference."""

    def shorthand(value: str) -> Option:
        return Option("inline") if value == "inline" else _registry_shorthand(value)

    option = parse_option(text, flag="--cache-to", types=("inline", "registry", "local"), shorthand=shorthand)
    required = {"registry": "ref", "local": "dest"}.get(option.type)
    if required and not option.get(required):
        raise UsageError(f"--cache-to {text}: {required}=… is missing")
    if (mode := option.get("mode") or "min") not in ("min", "max"):
        raise UsageError(f"--cache-to {text}: mode must be min or max, not {mode!r}")
    return option


def parse_output(text: str) -> Option:
    """`type=image|registry|oci|docker|local|tar,…`, a folder, or `-` for a tar on standard output."""

    def shorthand(value: str) -> Option:
        return Option("tar", (("dest", "-"),)) if value == "-" else Option("local", (("dest", value),))

    types = ("image", "registry", "oci", "docker", "local", "tar", "cacheonly")
    option = parse_option(text, flag="--output", types=types, shorthand=shorthand)
    if option.type in ("oci", "docker", "local", "tar") and not option.get("dest"):
        raise UsageError(f"--output {text}: dest=… is missing")
    return option


def pushing(outputs: Sequence[Option]) -> list[Option]:
    """`outputs`, now pushed; an image where nothing was asked for. Raises `UsageError` for what is no image."""
    for output in outputs:
        if output.type not in ("image", "registry"):
            raise UsageError(f"--push does not go with --output {output}: only images can be pushed")
    return [Option(each.type, (*each.fields, ("push", "true"))) for each in outputs or [Option("image")]]


def with_inline_cache(cache_to: Sequence[Option], build_args: Mapping[str, str]) -> list[Option]:
    """`cache_to`, and an inline cache where the build argument that docker's users know asks for one."""
    wanted = parse_bool(build_args.get("BUILDKIT_INLINE_CACHE", ""))
    if wanted and all(option.type != "inline" for option in cache_to):
        return [*cache_to, Option("inline")]
    return list(cache_to)


_LEVELS = {"gzip": (0, 9), "zstd": (1, 22), "uncompressed": (0, 22)}
_FLAGS = {
    "cache-to": ("image-manifest", "oci-mediatypes", "ignore-error", "reset"),
    "output": ("oci-mediatypes", "push", "store", "tar"),
}


def check_exports(cache_to: Sequence[Option], outputs: Sequence[Option]) -> None:
    """Raise `UsageError` for what cannot be exported as it is asked for, before anything is built."""
    for flag, options in (("cache-to", cache_to), ("output", outputs)):
        for option in options:
            try:
                _check_fields(option, _FLAGS[flag])
            except UsageError as error:
                raise UsageError(f"--{flag} {option}: {error}") from error
    folders = [_folder(option) for option in cache_to if option.type == "local"]
    for option in cache_to:
        if option.type == "local" and folders.count(_folder(option)) > 1:
            raise UsageError(f"--cache-to {option}: two caches cannot go to the same place")
        docker = not option.flag("oci-mediatypes", default=True)
        if docker and option.flag("image-manifest"):
            raise UsageError(
                f"--cache-to {option}: a cache with image-manifest=true needs oci-mediatypes=true"
            )


def _folder(option: Option) -> tuple[str, str]:
    return os.path.realpath(option.get("dest")), option.get("tag") or "latest"


_PACKING = "oci-mediatypes compression compression-level force-compression"
_IMAGE = f"name push store rewrite-timestamp {_PACKING}"
_CACHE = f"mode ignore-error image-manifest {_PACKING}"
_FIELDS = {
    "cache-from": {"registry": "ref", "local": "src tag digest", "oci-layout": "src tag digest"},
    "cache-to": {
        "inline": _CACHE,
        "registry": f"ref {_CACHE}",
        "local": f"dest tag reset {_CACHE}",
    },
    "output": {
        "image": _IMAGE,
        "registry": _IMAGE,
        "oci": f"dest tar name rewrite-timestamp {_PACKING}",
        "docker": f"dest tar name rewrite-timestamp {_PACKING}",
        "local": "dest platform-split",
        "tar": "dest platform-split",
        "cacheonly": "",
    },
}


def unknown_fields(request: BuildRequest) -> Iterator[tuple[str, Option, str, Sequence[str]]]:
    """Fields of options that have no effect: the flag, its option, the field's name, and the names that have one.

    They are no errors: BuildKit has fields that are of no use here, and takes any.
    """
    given = {"cache-from": request.cache_from, "cache-to": request.cache_to, "output": request.outputs}
    for flag, options in given.items():
        for option in options:
            known = _FIELDS[flag][option.type].split()
            yield from ((flag, option, name, known) for name, _ in option.fields if name not in known)


def _check_fields(option: Option, flags: Iterable[str]) -> None:
    for name in flags:
        option.flag(name)
    if ("force-compression", "") not in option.fields:
        option.flag("force-compression")
    kind, level = option.get("compression") or "gzip", option.get("compression-level")
    if kind not in _LEVELS:
        raise UsageError(f"compression must be gzip, zstd or uncompressed, not {kind!r}")
    lowest, highest = _LEVELS[kind]
    if level and not (level.isdecimal() and lowest <= int(level) <= highest):
        raise UsageError(f"compression-level of {kind} must be from {lowest} to {highest}, not {level!r}")


def parse_secret(text: str) -> Secret:
    """`id=…[,src=…|,env=…]`; without either, the variable of that name, else the file of that name."""
    if "=" not in text:
        text = f"id={text}"
    fields = _pairs(text, "--secret", ("id", "src", "source", "env", "type"))
    kind = fields.get("type", "")
    if kind not in ("", "file", "env"):
        raise UsageError(f"--secret {text}: type must be file or env, not {kind!r}")
    path = fields.get("src") or fields.get("source", "")
    variable = fields.get("env", "")
    if kind == "env" and path:
        path, variable = "", path
    name = fields.get("id") or (path.rpartition("/")[2] if path else variable)
    if not name:
        raise UsageError(f"--secret {text}: id=… is missing")
    return Secret(name, path, variable)


def parse_ssh(text: str) -> SshForward:
    """`default` or `ID=SOCKET|KEY[,KEY…]`, with `,raw=true` for a socket of anything but an agent."""
    name, _, rest = text.partition("=")
    fields = [field for field in rest.split(",") if field]
    raw = [field for field in fields if field.startswith("raw=")]
    if not name or any(parse_bool(field[4:]) is None for field in raw):
        raise UsageError(f"--ssh {text}: expected default or id=path")
    paths = tuple(field for field in fields if field not in raw)
    return SshForward(name, paths, any(parse_bool(field[4:]) for field in raw))


def parse_host(text: str) -> str:
    """`HOST:IP` or `HOST=IP` for /etc/hosts; `host-gateway` is the machine, whose network steps use."""
    name, equals, address = text.partition("=") if "=" in text else text.partition(":")
    if not name or not equals or not address:
        raise UsageError(f"--add-host {text}: expected HOST:IP")
    return f"{name}={'127.0.0.1' if address == 'host-gateway' else address.strip('[]')}"


def parse_allow(text: str) -> str:
    """An entitlement for `--allow`."""
    if text not in (ALLOW_NETWORK_HOST, ALLOW_SECURITY_INSECURE):
        raise UsageError(f"--allow {text}: must be {ALLOW_NETWORK_HOST} or {ALLOW_SECURITY_INSECURE}")
    return text


def parse_mirror(text: str) -> tuple[str, str]:
    """`HOST=MIRROR`: a registry, and a host (with an optional scheme and path) that is asked before it."""
    host, mirror = parse_pair(text, "--registry-mirror")
    scheme, separator, place = mirror.rpartition("://")
    if (separator and scheme not in ("http", "https")) or not place.strip("/") or "/" in host:
        raise UsageError(
            f"--registry-mirror {text}: expected HOST=MIRROR, such as docker.io=mirror.example/hub"
        )
    # docker.io has several names; references use this one.
    return ("docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host), mirror.rstrip("/")


def parse_pair(text: str, flag: str) -> tuple[str, str]:
    """`NAME=VALUE` where the value may hold anything."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"{flag} {text}: expected NAME=VALUE")
    return name, value


def parse_size(text: str, flag: str) -> int:
    """docker's sizes in bytes: `64m`, `1.5g`, `10GB`, `1048576`; k is 1024. Raises `UsageError`."""
    units = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
    number = text.strip().lower().removesuffix("b").removesuffix("i").rstrip("kmgtp")
    unit = text.strip().lower().removesuffix("b").removesuffix("i")[len(number) :]
    whole, dot, part = number.strip().partition(".")
    digits = (whole + part).isdecimal() and (whole + part).isascii() and whole and (part or not dot)
    if unit not in units or not digits:
        raise UsageError(f"{flag} {text}: not a size such as 64m or 1.5GB")
    return int(int(whole + part) * (1 << units[unit]) / 10 ** len(part))


def parse_age(text: str, flag: str) -> float:
    """Seconds of a Go duration, which may also have days: `24h`, `1h30m`, `7d`. Raises `UsageError`."""
    wrong = UsageError(f"{flag} {text}: not a duration such as 90s, 24h or 7d")
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
    seconds, number = 0.0, ""
    for character in text.strip():
        if character in units and number.replace(".", "", 1).isdecimal():
            seconds, number = seconds + float(number) * units[character], ""
        elif character in "0123456789.":
            number += character
        else:
            raise wrong
    if number or not text.strip():
        raise wrong
    return seconds


def _pairs(text: str, flag: str, known: Iterable[str]) -> Mapping[str, str]:
    pairs = {}
    for field in split_fields(text):
        key, value = parse_pair(field, flag)
        if key.lower() not in known:
            raise UsageError(f"{flag} {text}: unknown field {key!r}; known are {', '.join(sorted(known))}")
        pairs[key.lower()] = value
    return pairs
