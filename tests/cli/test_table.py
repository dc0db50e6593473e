"""cli.table: columns, and times in words."""

from __future__ import annotations

import pytest

from inlay.cli.table import ago, short, table


def test_columns_are_as_wide_as_they_must_be() -> None:
    assert table([("NAME", "SIZE", "WHAT"), ("a", "10", ""), ("longer", "5", "x")], right=(1,)) == (
        "NAME    SIZE  WHAT\na         10\nlonger     5  x\n"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "just now"),
        (45, "45 seconds ago"),
        (60, "1 minute ago"),
        (7300, "2 hours ago"),
        (86400 * 40, "40 days ago"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert ago(1000.0, 1000.0 + seconds) == words
    assert ago(0.0) == "never"


def test_digests_and_paths_are_shortened() -> None:
    assert short("sha256:" + "ab" * 32) == "abababababab"
    assert short("/store/mounts/x.0") == "x.0"
    assert short("docker.io/library/app:1") == "docker.io/library/app:1"
