"""request: the notation of sizes and ages."""

from __future__ import annotations

import pytest

from inlay.errors import UsageError
from inlay.request import parse_age, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
        ("10 GB", 10 << 30),
        ("512b", 512),
        ("1t", 1 << 40),
    ],
)
def test_sizes_are_docker_s(text: str, expected: int) -> None:
    assert parse_size(text, "--shm-size") == expected


@pytest.mark.parametrize("text", ["", "m", "1x", "-1", "1.m", ".5g", "1e3", "1mm", "١m"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--shm-size"):
        parse_size(text, "--shm-size")


@pytest.mark.parametrize(
    ("text", "expected"), [("24h", 86400), ("1h30m", 5400), ("7d", 604800), ("1.5h", 5400), ("90s", 90)]
)
def test_ages_are_go_durations_and_days(text: str, expected: float) -> None:
    assert parse_age(text, "--filter") == expected


@pytest.mark.parametrize("text", ["", "h", "24", "1x", "-1h", "1..5h", "1h2"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(UsageError, match="--filter"):
        parse_age(text, "--filter")
