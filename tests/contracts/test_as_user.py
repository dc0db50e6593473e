"""What executors, snapshotters and layers promise holds for an ordinary user too: the same suites, in a user
namespace."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ordinary import User

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a user"),
]

RUN_SUITE = """
import sys
import pytest
from inlay.system import privileges, rootless
rootless.enter()
assert privileges.in_user_namespace()
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("suite", "only"),
    [
        ("test_executor.py", "builtin"),
        ("test_executor.py", "crun"),
        ("test_executor.py", "runc"),
        ("test_snapshotter.py", ""),
        ("../archive/test_layer.py", "not come_back and not get_their_looks"),  # but for device nodes
    ],
)
def test_the_suite_holds_for_an_ordinary_user(users: Callable[..., User], suite: str, only: str) -> None:
    user = users()
    path = (Path(__file__).parent / suite).resolve()
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        f"--basetemp={user.home}/tmp",
        "-k",
        only,
        "--tb=short",
    ]
    done = user.run(
        sys.executable, "-c", RUN_SUITE, *options, str(path), env={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert done.code == 0, done.out[-5000:] + done.err[-2000:]
    assert " passed" in done.out
    assert "failed" not in done.out
