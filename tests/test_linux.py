"""What the kernel is, as its release says."""

from __future__ import annotations

import os

import pytest

from inlay.system import linux


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.14.0-37-generic", (6, 14)),
        ("5.15.153.1-microsoft-standard-WSL2", (5, 15)),
        ("6.14-custom", (6, 14)),
        ("6.1+", (6, 1)),
        ("6.1_local.x", (6, 1)),
        ("6.1", (6, 1)),
        ("6", (6, 0)),
        ("", linux.kernel_version(os.uname().release)),
    ],
)
def test_versions_are_told_by_any_release(release: str, version: tuple[int, int]) -> None:
    assert linux.kernel_version(release) == version
