"""`json` without what importing that costs: 4 ms, most of them for regular expressions that C code makes unneeded.

The parts are CPython's own, put together as `json` does; what they do not take, and errors, are left to `json`.
"""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

try:
    from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner
except ImportError:  # another Python than CPython
    from json.encoder import encode_basestring, encode_basestring_ascii

    _HAS_PARTS = False
else:
    _HAS_PARTS = True

__all__ = ["dumps", "encode_basestring", "loads"]

_BLANKS = " \t\n\r"


def loads(text: str | bytes) -> Any:
    """Read JSON; raises what `json.loads` does, whose `JSONDecodeError` is a `ValueError`.

    So is what it raises for values nested deeper than Python reads them: that is some 1,000 in Python 3.11, later more.
    """
    try:
        return _loads(text)
    except RecursionError:  # its text is another one in each Python, and in some speaks of the stack
        raise ValueError("exceeded max depth") from None


def _loads(text: str | bytes) -> Any:
    if _HAS_PARTS:
        try:
            document = text if isinstance(text, str) else str(text, "utf-8", "surrogatepass")
            value, end = _scan(document, 0)
            if end == len(document) or not document[end:].strip(_BLANKS):
                return value
        except (StopIteration, UnicodeDecodeError, SystemError):
            # In Python 3.11 the scanner finds the error it is to raise in `json.decoder` if that is imported, and else
            # returns without one, which is a SystemError.
            pass
    import json

    return json.loads(text)


def dumps(value: object, *, ensure_ascii: bool = True) -> str:
    """Write JSON on one line without blanks."""
    if not _HAS_PARTS:
        import json

        return json.dumps(value, separators=(",", ":"), ensure_ascii=ensure_ascii)
    encode = encode_basestring_ascii if ensure_ascii else encode_basestring
    return "".join(make_encoder({}, _refuse, encode, None, ":", ",", False, False, True)(value, 0))


def _refuse(value: object) -> None:
    raise TypeError(f"JSON has no {type(value).__name__}")


class _Reading:
    """What the scanner asks for: Python's own numbers, and no hooks."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"-Infinity": float("-inf"), "Infinity": float("inf"), "NaN": float("nan")}.__getitem__


if _HAS_PARTS:
    _scan = make_scanner(_Reading)  # type: ignore[arg-type]  # which asks for itself
