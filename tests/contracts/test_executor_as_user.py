"""What every executor promises holds for an ordinary user too: the same suite, in a user namespace."""

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
from inlay import rootless
rootless.enter()
assert rootless.in_user_namespace()
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("runtime", ["builtin", "crun", "runc"])
def test_the_suite_holds_for_an_ordinary_user(users: Callable[..., User], runtime: str) -> None:
    user = users()
    suite = Path(__file__).with_name("test_executor.py")
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={user.home}/tmp", "-k", runtime, "--tb=short"]
    done = user.run(
        sys.executable, "-c", RUN_SUITE, *options, str(suite), env={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert done.code == 0, done.out[-5000:] + done.err[-2000:]
    assert " passed" in done.out
    assert "failed" not in done.out
