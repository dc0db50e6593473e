from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.dockerfile.giturl import parse_git_url, url_path
from inlay.errors import DockerfileError


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("https://u:p@h:8443/a/../b.git#r:/s/../t", "git://h:8443/b.git#r:t"),
        ("git@h.com:a/b.git#:s", "git://h.com/a/b.git#:s"),
        ("https://h/a%20b.git?branch=x", "git://h/a b.git#refs/heads/x"),
        ("github.com/a/b", "git://github.com/a/b"),
    ],
)
def test_the_identifier_is_the_same_for_all_protocols(text: str, identifier: str) -> None:
    git = parse_git_url(text)
    assert git is not None
    assert git.identifier == identifier


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("https://h/a b.git", "https://h/a%20b.git"),
        ("https://h/a%2fb.git", "https://h/a%2fb.git"),
        ("https://h/é.git", "https://h/%C3%A9.git"),
        ("https://u%40x:p%2F@h/a.git", "https://u%40x:p%2F@h/a.git"),
        ("https://h/a.git?", "https://h/a.git?"),
        ("ssh://git@[::1]:22/a", "ssh://git@[::1]:22/a"),
    ],
)
def test_the_remote_is_spelled_as_go_does(text: str, remote: str) -> None:
    git = parse_git_url(text)
    assert git is not None
    assert git.remote == remote


@pytest.mark.parametrize(
    "text",
    [
        "https://h:x/a.git",
        "https://[::1/a.git",
        "https://h/%zz.git",
        "https://h h/a.git",
        "ftp://h/a.git",
        "a/b.git",
    ],
)
def test_what_is_no_git_url_is_none(text: str) -> None:
    assert parse_git_url(text) is None


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("tag=a&branch=b", "branch conflicts with tag"),
        ("ref=a&tag=b", 'ref conflicts: "a" vs "refs/tags/b"'),
        ("x=1", 'unexpected query "x"'),
        ("submodules=maybe", 'invalid submodules value: "maybe"'),
    ],
)
def test_a_wrong_query_is_an_error(query: str, error: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_git_url(f"https://h/a.git?{query}")
    assert caught.value.message == error


def test_the_path_of_a_url_names_the_download() -> None:
    assert url_path("https://e.com/a%20b/c.txt?x#y") == "/a b/c.txt"
    assert url_path("https://e.com/%") is None


@given(st.text() | st.text("htps:/@.gi#?&=%a1[]", max_size=40).map("https://".__add__))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        git = parse_git_url(text)
    except DockerfileError:
        return
    if git is not None:
        assert git.identifier.startswith("git://")
