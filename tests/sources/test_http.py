"""What a download is keyed by and called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.registry.url import shown_url
from inlay.sources.http import file_name
from inlay.sources.httpdate import format_http_date, parse_http_date


@pytest.mark.parametrize(
    ("wanted", "disposition", "url", "name"),
    [
        ("given", 'attachment; filename="x"', "http://h/y", "given"),
        ("", 'attachment; filename="x y.tar"', "http://h/y", "x y.tar"),
        ("", "attachment; filename=x", "http://h/y", "x"),
        ("", r'attachment; filename="a\"b"', "http://h/y", 'a"b'),
        ("", "attachment; filename=../../etc/passwd", "http://h/y", "passwd"),
        ("", "attachment; filename=dir/", "http://h/y", "y"),
        ("", "attachment; filename*=UTF-8''%C3%A4.txt", "http://h/y", "ä.txt"),
        ("", "inline", "http://h/a/b%20c?q=1", "b c"),
        ("", "", "http://h/a/", "a"),
        ("", "", "http://h/", "download"),
        ("", "", "http://h", "download"),
        ("..", "", "http://h/y", "download"),
        ("a\nb", "", "http://h/y", "download"),
    ],
)
def test_the_name_of_a_download(wanted: str, disposition: str, url: str, name: str) -> None:
    assert file_name(wanted, disposition, url) == name


@given(st.text(), st.text(), st.text())
def test_a_name_is_always_one_component(wanted: str, disposition: str, url: str) -> None:
    name = file_name(wanted, f"attachment; filename={disposition}", url)
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\0\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Fri, 01 Mar 2024 10:20:30 GMT", 1709288430),
        ("Friday, 01-Mar-24 10:20:30 UTC", 1709288430),
        ("Fri Mar  1 10:20:30 2024", 1709288430),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Thu, 29 Feb 2024 00:00:00 GMT", 1709164800),
        ("Wed, 29 Feb 2023 00:00:00 GMT", None),
        ("Fri, 1 Mar 2024 10:20:30 GMT", None),
        ("Fri, 01 Mar 2024 10:20:30 +0000", None),
        ("Fri, 01 Mar 2024 24:00:00 GMT", None),
        ("Fri, 00 Mar 2024 10:20:30 GMT", None),
        ("", None),
    ],
)
def test_dates_in_the_three_forms_of_http(text: str, seconds: int | None) -> None:
    assert parse_http_date(text) == seconds


@given(st.integers(0, 250_000_000_000))
def test_a_date_that_is_written_is_read_again(seconds: int) -> None:
    assert parse_http_date(format_http_date(seconds)) == seconds


@given(st.text())
def test_no_text_as_date_raises(text: str) -> None:
    parse_http_date(text)


def test_urls_are_shown_without_credentials_and_query() -> None:
    assert shown_url("https://user:word@host:1/a@b?sig=x#y") == "https://host:1/a@b"
