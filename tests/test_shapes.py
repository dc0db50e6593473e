"""What is read without regular expressions is read as these would."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.digest import Digest, hasher, is_digest, sha256, text_sha256
from inlay.errors import RegistryError
from inlay.golang.timestamp import parse_ns
from inlay.reference import _has_digest_shape, _is_domain, is_path, is_tag
from inlay.registry.url import Url, is_loopback

LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
SHAPES = {
    is_path: "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*",
    is_tag: "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
    is_digest: "sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}",
    is_loopback: r"127(\.[0-9]{1,3}){3}|localhost|::1|.*\.localhost",
    _is_domain: rf"(?:{LABEL}(?:\.{LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?",
    _has_digest_shape: "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}",
}
URL = r"(https?)://(?:[^/?#@]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?([/?][!-~]*)?"
TIME = r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:Z|([+-])(\d\d):(\d\d))"


@pytest.mark.parametrize(("check", "shape"), SHAPES.items(), ids=lambda value: getattr(value, "__name__", ""))
@given(data=st.data())
def test_words_have_the_shape_of_their_expression(check: object, shape: str, data: st.DataObject) -> None:
    near = st.text("aZ0.-_/:[]+f\n\u0661", max_size=8)
    text = data.draw(st.from_regex(shape, fullmatch=True) | near)
    assert callable(check)
    assert check(text) == (re.fullmatch(shape, text) is not None), text


@given(
    st.from_regex(URL, fullmatch=True) | st.text("htps:/@?#[]aZ0.-~ \n", max_size=14).map("http://".__add__)
)
def test_urls_have_the_shape_of_their_expression(text: str) -> None:
    match = re.fullmatch(URL, text.partition("#")[0])
    ports = {"http": 80, "https": 443}
    try:
        url = Url.parse(text)
    except RegistryError:
        assert match is None or not 0 < int(match[3] or ports[match[1]]) < 65536
    else:
        assert match is not None
        port = int(match[3] or ports[match[1]])
        target = "/" + (match[4] or "").removeprefix("/")
        assert url == Url(match[1], match[2].strip("[]").lower(), port, target)


@given(st.from_regex(TIME, fullmatch=True) | st.text("2024-01T:.Z+", max_size=30))
def test_times_have_the_shape_of_their_expression(text: str) -> None:
    if parse_ns(text) is not None:
        assert re.fullmatch(TIME, text, re.ASCII)


def test_times_of_all_zones_are_read() -> None:
    assert parse_ns("1970-01-01T01:00:00.5+01:00") == parse_ns("1970-01-01T00:00:00.500Z") == 500_000_000
    assert parse_ns("1969-12-31T23:00:00-01:30") == 1800 * 10**9
    for wrong in (
        "1970-01-01T00:00:0",
        "1970-01-01T00:00:00.Z",
        "1970-01-01 00:00:00Z",
        "1970-13-01T00:00:00Z",
    ):
        assert parse_ns(wrong) is None


def test_hashes_are_the_same_from_the_interpreter_and_from_openssl() -> None:
    data = b"x" * 100_000
    assert {
        text_sha256(data).hexdigest(),
        sha256(data).hexdigest(),
        sha256(data, size=1 << 30).hexdigest(),
    } == {Digest.of(data).hex}
    sha = hasher("sha512", size=1)
    sha.update(b"abc")
    assert sha.hexdigest().startswith("ddaf35a193617aba")
