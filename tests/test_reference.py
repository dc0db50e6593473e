from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.errors import UsageError
from inlay.reference import Reference, parse


def test_a_short_name_is_an_official_image() -> None:
    assert parse("alpine").with_default_tag() == Reference("docker.io", "library/alpine", "latest")


def test_a_digest_needs_no_tag() -> None:
    digest = "sha256:" + "0" * 64
    assert str(parse(f"a/b@{digest}").with_default_tag()) == f"docker.io/a/b@{digest}"


def test_what_only_looks_like_a_host_name_is_part_of_the_path() -> None:
    assert parse("a.b_c/d") == Reference("", "a.b_c/d")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0" * 64, "cannot specify 64-byte hexadecimal strings"),
        ("a@sha256:" + "0" * 63, "invalid checksum digest length"),
        ("a@sha256:" + "A" * 64, "invalid checksum digest format"),
        ("a@md5:" + "0" * 32, "unsupported digest algorithm"),
        ("a\n", "invalid reference format"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


@given(st.text(max_size=40) | st.text("aB0.:/@-_[]", max_size=40))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = parse(text)
    except UsageError:
        return
    assert parse(reference.familiar) == reference


def test_long_names_take_linear_time() -> None:
    start = time.process_time()
    for text in (
        "a-" * 50_000,
        "a." * 50_000 + "/b",
        "a/" * 50_000,
        "a__" * 50_000,
        "A" * 100_000,
        "a:" + "b" * 100_000,
    ):
        with pytest.raises(UsageError):
            parse(text)
    assert time.process_time() - start < 1
