"""Literals read as Go reads them; the expectations are what Go's own functions give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.dockerfile import literals
from inlay.llb.ops import Ulimit

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("5s", 5 * 10**9),
        ("1h2m3.5s", 3723_500_000_000),
        ("-1.5h", -5400 * 10**9),
        ("+.5ms", 500_000),
        ("1µs", 1000),
        ("9223372036854775807ns", (1 << 63) - 1),
        ("-9223372036854775808ns", -(1 << 63)),
    ],
)
def test_durations_are_read_in_nanoseconds(text: str, nanoseconds: int) -> None:
    assert literals.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("foo", 'time: invalid duration "foo"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        (".s", 'time: invalid duration ".s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("3é", r'time: unknown unit "\xc3\xa9" in duration "3\xc3\xa9"'),
    ],
)
def test_what_is_no_duration(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        literals.parse_duration(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (2_000_000, "2ms"),
        (90 * 10**9, "1m30s"),
        (3600 * 10**9, "1h0m0s"),
        (-3_500_000_000, "-3.5s"),
    ],
)
def test_durations_are_written_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert literals.format_duration(nanoseconds) == text


@given(st.integers(-(2**53), 2**53))
def test_a_written_duration_is_read_as_it_was(nanoseconds: int) -> None:
    assert abs(literals.parse_duration(literals.format_duration(nanoseconds)) - nanoseconds) <= 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32", 32),
        ("32b", 32),
        ("32kB", 32 << 10),
        ("1.5 GiB", 3 << 29),
        ("2M", 2 << 20),
        ("1e3", 1000),
        ("0.5k", 512),
    ],
)
def test_sizes_are_read_in_bytes(text: str, size: int) -> None:
    assert literals.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid size: ''"),
        ("kB", "invalid size: 'kB'"),
        ("-1k", "invalid size: '-1k'"),
        ("1kk", "invalid suffix: 'kk'"),
        ("1bb", "invalid suffix: 'bb'"),
        ("1kiBs", "invalid suffix: 'kibs'"),
        (" 1", 'strconv.ParseFloat: parsing " 1": invalid syntax'),
        ("1e999", 'strconv.ParseFloat: parsing "1e999": value out of range'),
    ],
)
def test_what_is_no_size(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        literals.parse_size(text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a,b", ["a", "b"]),
        ("a,", ["a", ""]),
        (",", ["", ""]),
        ('"a,b",c', ["a,b", "c"]),
        ('"a""b"', ['a"b']),
        ('"a",', ["a", ""]),
        ("a\n", ["a"]),
        ("a\r\n", ["a"]),
    ],
)
def test_lists_are_split_as_csv(text: str, fields: list[str]) -> None:
    assert literals.parse_csv(text) == fields


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "EOF"),
        ('a"b', 'parse error on line 1, column 2: bare " in non-quoted-field'),
        ('"a"b', 'parse error on line 1, column 3: extraneous or missing " in quoted-field'),
        ('"a', 'parse error on line 1, column 2: extraneous or missing " in quoted-field'),
    ],
)
def test_what_is_no_list(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        literals.parse_csv(text)


def test_a_limit_without_hard_limit_is_its_own() -> None:
    assert literals.parse_ulimit("nofile=1024") == Ulimit("nofile", 1024, 1024)
    assert literals.parse_ulimit("core=0:-1") == Ulimit("core", 0, -1)
    with pytest.raises(ValueError, match="must be less than or equal to hard limit: 3 > 2"):
        literals.parse_ulimit("core=3:2")


@pytest.mark.parametrize("text", ["TERM", "sigterm", "9", "SIGRTMIN+15", "RTMAX-14", "-1"])
def test_what_is_a_signal(text: str) -> None:
    assert literals.is_signal(text)


@pytest.mark.parametrize("text", ["", "0", "FOO", "SIGRTMIN+16", "RTMAX-15", "RTMIN+01", "TERM+1"])
def test_what_is_no_signal(text: str) -> None:
    assert not literals.is_signal(text)


@pytest.mark.parametrize("text", ["u+x", "+x,g-w", "a=rX", "=u", "ug=rw,o=", "u+s,+t", "u+x-w"])
def test_what_is_a_symbolic_mode(text: str) -> None:
    assert literals.check_mode(text) is None


@pytest.mark.parametrize("text", ["x", "u", "u+x,", "u+q", "+7", ",u+x"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(ValueError, match=r"^invalid syntax$"):
        literals.check_mode(text)


@pytest.mark.parametrize("text", ["8", "9x", "10000", "0o7"])
def test_what_looks_like_a_number_but_is_no_mode(text: str) -> None:
    with pytest.raises(ValueError, match="should be octal string"):
        literals.check_mode(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("1.2.3.4", "1.2.3.4"), ("::1", "::1"), ("::ffff:1.2.3.4", "1.2.3.4"), ("1:0:0:2::3", "1:0:0:2::3")],
)
def test_addresses_are_written_in_one_way(text: str, address: str) -> None:
    assert literals.parse_ip(text) == address


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.04", "fe80::1%eth0", "x"])
def test_what_is_no_address(text: str) -> None:
    assert literals.parse_ip(text) == ""


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (literals.parse_int, "1_0"),
        (literals.parse_int, "٣"),
        (literals.parse_uint, "+1"),
        (literals.parse_int, "9" * 5000),
        (literals.parse_bool, "yes"),
    ],
)
def test_numbers_are_gos_and_not_pythons(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"^strconv\."):
        read(text)
