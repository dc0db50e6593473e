"""The literals of options and flags, read as Go reads them: lists, numbers, sizes, durations, limits, modes.

A literal that is none raises `ValueError` with Go's message. BuildKit: vendor/github.com/{docker/go-units,
tonistiigi/go-csvvalue,tonistiigi/dchapes-mode,moby/sys/signal}, util/cpuset; Go: strconv, time, net.
"""

from __future__ import annotations

from inlay.golang import text as go
from inlay.golang.text import SPACE, quote
from inlay.llb.ops import Ulimit

_INT64 = 1 << 63
_LARGEST_CPU = 8192

_BINARY_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DURATION_UNITS = {
    "ns": 1,
    "us": 10**3,
    "\xb5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_ULIMITS = (
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)
_SIGNALS = (
    "ABRT",
    "ALRM",
    "BUS",
    "CHLD",
    "CLD",
    "CONT",
    "FPE",
    "HUP",
    "ILL",
    "INT",
    "IO",
    "IOT",
    "KILL",
    "PIPE",
    "POLL",
    "PROF",
    "PWR",
    "QUIT",
    "SEGV",
    "STKFLT",
    "STOP",
    "SYS",
    "TERM",
    "TRAP",
    "TSTP",
    "TTIN",
    "TTOU",
    "URG",
    "USR1",
    "USR2",
    "VTALRM",
    "WINCH",
    "XCPU",
    "XFSZ",
    "RTMIN",
    "RTMAX",
)


def parse_int(text: str, *, base: int = 10, bits: int = 64) -> int:
    """Go's `strconv.ParseInt`."""
    negative = text.startswith("-")
    digits = text[1:] if text[:1] in ("+", "-") else text
    number = _digits("ParseInt", text, digits, base)
    limit = 1 << (bits - 1)
    if number > limit or (number == limit and not negative):
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return -number if negative else number


def parse_uint(text: str, *, base: int = 10, bits: int = 64) -> int:
    """Go's `strconv.ParseUint`: no sign at all."""
    number = _digits("ParseUint", text, text, base)
    if number >= 1 << bits:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return number


def _digits(function: str, text: str, digits: str, base: int) -> int:
    allowed = "0123456789"[:base]
    if not digits or digits.strip(allowed):
        raise ValueError(f"strconv.{function}: parsing {quote(text)}: invalid syntax")
    significant = digits.lstrip("0") or "0"
    return int(significant, base) if len(significant) < 30 else 1 << 64


def parse_bool(text: str) -> bool:
    """Go's `strconv.ParseBool`."""
    value = go.parse_bool(text)
    if value is None:
        raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")
    return value


def parse_csv(line: str) -> list[str]:
    """The fields of one line; quotes hold commas, a doubled quote is one."""
    if line.endswith("\n"):
        line = line[:-2] if line.endswith("\r\n") else line[:-1]
    if not line:
        raise ValueError("EOF")
    if '"' not in line:
        return line.split(",")
    fields: list[str] = []
    position = 0
    while True:
        field, position = _csv_field(line, position)
        fields.append(field)
        if position >= len(line):
            break
        position += 1
        if position == len(line):
            fields.append("")
            break
    return fields


def _csv_field(line: str, start: int) -> tuple[str, int]:
    """The field at `start` and where it ends: at a comma or at the end of the line."""
    if not line.startswith('"', start):
        end = line.find(",", start)
        end = len(line) if end < 0 else end
        bare = line.find('"', start, end)
        if bare >= 0:
            raise _csv_error(line, bare, 'bare " in non-quoted-field')
        return line[start:end], end
    parts: list[str] = []
    position = start + 1
    while (end := line.find('"', position)) >= 0:
        parts.append(line[position:end])
        following = line[end + 1 : end + 2]
        if following in (",", ""):
            return "".join(parts), end + 1
        if following != '"':
            raise _csv_error(line, end, 'extraneous or missing " in quoted-field')
        parts.append('"')
        position = end + 2
    raise _csv_error(line, position, 'extraneous or missing " in quoted-field')


def _csv_error(line: str, position: int, what: str) -> ValueError:
    column = len(line[:position].encode(errors="surrogateescape")) + 1
    return ValueError(f"parse error on line 1, column {column}: {what}")


def parse_size(text: str) -> int:
    """A number of bytes such as `64m`, `1.5 GiB` or `1024` (go-units `RAMInBytes`)."""
    last = max((position for position, char in enumerate(text) if char in "0123456789. "), default=-1)
    if last < 0:
        raise ValueError(f"invalid size: '{text}'")
    suffix = text[last + 1 :].lower()
    number = _parse_float(text[:last] if text[last] == " " else text[: last + 1])
    if number < 0:
        raise ValueError(f"invalid size: '{text}'")
    if suffix in ("", "b"):
        return _to_int64(number)
    if suffix[0] not in _BINARY_UNITS or suffix[1:] not in ("", "b", "ib"):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return _to_int64(number * _BINARY_UNITS[suffix[0]])


def _parse_float(text: str) -> float:
    """Go's `strconv.ParseFloat`, of the forms that a size can hold."""
    if text.isascii() and text == text.strip() and not text.startswith("_") and "__" not in text:
        try:
            number = float(text) if "_" not in text else float("x")
        except ValueError:
            number = float("nan") if text.lower() == "nan" else None  # type: ignore[assignment]
        if number is not None:
            if number in (float("inf"), float("-inf")) and "inf" not in text.lower():
                raise ValueError(f"strconv.ParseFloat: parsing {quote(text)}: value out of range")
            return number
    raise ValueError(f"strconv.ParseFloat: parsing {quote(text)}: invalid syntax")


def _to_int64(number: float) -> int:
    """What a conversion gives on amd64: the smallest integer where the number does not fit."""
    return int(number) if -_INT64 <= number < _INT64 else -_INT64


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration such as `1h30m` or `-1.5s` (Go's `time.ParseDuration`)."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    negative = text.startswith("-")
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"time: invalid duration {_quote_bytes(text)}")
    total = 0
    while rest:
        part, rest = _duration_part(text, rest)
        total += part
        if total > _INT64 or (total == _INT64 and not (negative and not rest)):
            raise ValueError(f"time: invalid duration {_quote_bytes(text)}")
    return -total if negative else total


def _duration_part(text: str, rest: str) -> tuple[int, str]:
    whole = _leading_digits(rest)
    rest = rest[len(whole) :]
    fraction = ""
    dotted = rest.startswith(".")
    if dotted:
        fraction = _leading_digits(rest[1:])
        rest = rest[1 + len(fraction) :]
    if (not whole and not fraction) or len(whole.lstrip("0")) > 19:
        raise ValueError(f"time: invalid duration {_quote_bytes(text)}")
    end = next((position for position, char in enumerate(rest) if char in ".0123456789"), len(rest))
    unit, rest = rest[:end], rest[end:]
    if not unit:
        raise ValueError(f"time: missing unit in duration {_quote_bytes(text)}")
    if unit not in _DURATION_UNITS:
        raise ValueError(f"time: unknown unit {_quote_bytes(unit)} in duration {_quote_bytes(text)}")
    scale = _DURATION_UNITS[unit]
    part = int(whole or "0") * scale
    if fraction:
        kept = fraction[:18]
        part += int(float(int(kept)) * (float(scale) / float(10 ** len(kept))))
    return part, rest


def _leading_digits(text: str) -> str:
    return text[: len(text) - len(text.lstrip("0123456789"))]


def _quote_bytes(text: str) -> str:
    """Quote as package time does: all but printable ASCII byte by byte."""
    out = ['"']
    for byte in text.encode(errors="surrogateescape"):
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        else:
            out.append(char if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")
    return "".join(out) + '"'


def format_duration(nanoseconds: int) -> str:
    """Go's `time.Duration.String`: `1h0m0s`, `1.5s`, `300ms`."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < 10**9:
        for unit, scale in (("ms", 10**6), ("\xb5s", 10**3), ("ns", 1)):
            if rest >= scale:
                return f"{sign}{_decimal(rest, scale)}{unit}"
    seconds, fraction = divmod(rest, 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(seconds * 10**9 + fraction, 10**9)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else sign + text


def _decimal(number: int, scale: int) -> str:
    whole, fraction = divmod(number, scale)
    digits = f"{fraction:0{len(str(scale)) - 1}d}".rstrip("0") if scale > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)


def parse_ulimit(text: str) -> Ulimit:
    """`name=soft[:hard]`."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    hard = parse_int(parts[-1])
    soft = parse_int(parts[0])
    if hard != -1:
        rule = "ulimit soft limit must be less than or equal to hard limit"
        if soft == -1:
            raise ValueError(f"{rule}: soft: -1 (unlimited), hard: {hard}")
        if soft > hard:
            raise ValueError(f"{rule}: {soft} > {hard}")
    return Ulimit(name, soft, hard)


def check_cpuset(text: str) -> None:
    """Check a list of processors such as `0-3,5`."""
    for part in text.split(","):
        element = part.strip(SPACE)
        if not element:
            continue
        low, dash, high = element.partition("-")
        kind = "range" if dash else "element"
        try:
            first = parse_int(low.strip(SPACE) if dash else low)
            last = parse_int(high.strip(SPACE)) if dash else first
        except ValueError:
            first, last = -1, -1
        if first < 0 or last < first:
            raise ValueError(f"invalid cpuset {kind} {quote(element)}")
        if last > _LARGEST_CPU:
            raise ValueError(f"cpuset {kind} {quote(element)} exceeds maximum {_LARGEST_CPU}")


def parse_ip(text: str) -> str:
    """An IP address in the form in which Go writes it; empty where `text` is none."""
    import ipaddress

    if "%" in text or not text.isascii():
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def is_signal(text: str) -> bool:
    """True for a signal's name or number."""
    try:
        return parse_int(text) != 0
    except ValueError:
        name, sign, offset = text.upper().removeprefix("SIG").partition("+")
        if sign:
            return name == "RTMIN" and offset in [str(number) for number in range(1, 16)]
        name, sign, offset = name.partition("-")
        if sign:
            return name == "RTMAX" and offset in [str(number) for number in range(1, 15)]
        return name in _SIGNALS


def check_mode(text: str) -> int | None:
    """The bits of an octal mode; None for a symbolic one such as `u+x,g-w`."""
    wrong = f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
    try:
        mode = parse_uint(text, base=8, bits=32)
    except ValueError:
        if text[0] in "0123456789":
            raise ValueError(wrong) from None
        if not _is_symbolic_mode(text):
            raise ValueError("invalid syntax") from None
        return None
    if mode > 0o7777:
        raise ValueError(wrong)
    return mode


def _is_symbolic_mode(text: str) -> bool:
    for clause in text.split(","):
        actions = clause.lstrip("augo")
        if not actions or actions[0] not in "+-=" or actions.strip("+-=rstwXxugo"):
            return False
    return True


def check_digest(text: str) -> None:
    """Check a checksum's form (go-digest `Parse`)."""
    algorithm, colon, encoded = text.partition(":")
    lengths = {"sha256": 64, "sha384": 96, "sha512": 128}
    if not algorithm or not colon or not encoded:
        raise ValueError("invalid checksum digest format")
    if algorithm not in lengths:
        if _is_digest_shape(algorithm, encoded):
            raise ValueError("unsupported digest algorithm")
        raise ValueError("invalid checksum digest format")
    if len(encoded.encode(errors="surrogateescape")) != lengths[algorithm]:
        raise ValueError("invalid checksum digest length")
    if encoded.strip("0123456789abcdef"):
        raise ValueError("invalid checksum digest format")


def _is_digest_shape(algorithm: str, encoded: str) -> bool:
    words = algorithm.replace("+", "-").replace(".", "-").replace("_", "-").split("-")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    if not all(word and not word.strip(letters) for word in words):
        return False
    return not encoded.strip(letters + letters.upper() + "=_-")
