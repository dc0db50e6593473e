"""Text as Go sees it, where Go and Python differ and a key or a message depends on it.

Text that came from bytes is `str` decoded as UTF-8 with `surrogateescape`: one lone surrogate stands for
each byte that is not UTF-8, where Go sees U+FFFD.
"""

from __future__ import annotations

SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The characters of Go's `unicode.IsSpace`; `str.strip()` would also take U+001C to U+001F."""

_SHORT = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


def valid(text: str) -> str:
    """Put U+FFFD in place of each byte that is not UTF-8."""
    if text.isascii():
        return text
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


def quote(text: str) -> str:
    """Quote `text` as `strconv.Quote` and `%q` do."""
    return f'"{"".join(map(_quoted, text))}"'


def _quoted(char: str) -> str:
    if char == '"':
        return '\\"'
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def atoi(text: str) -> int | None:
    """Read a decimal as `strconv.Atoi` does (`+0`, `-1`, `007`); None where that fails."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits or len(text) > 4000 or not digits.isascii() or not digits.isdigit():
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


def parse_bool(text: str) -> bool | None:
    """Go's strconv.ParseBool; None for what is no boolean."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    return False if text in ("0", "f", "F", "false", "FALSE", "False") else None
