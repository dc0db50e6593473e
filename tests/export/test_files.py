"""A result as plain files."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from inlay.export.files import write_tar

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("folder", ["", "linux_amd64"])
def test_times_in_a_tar_are_rounded_to_the_nearest_second(tmp_path: Path, folder: str) -> None:
    for name, fraction in (("below", 499_999_999), ("half", 500_000_000), ("above", 999_999_999)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(0, 1_400_000_000 * 10**9 + fraction))
    out = io.BytesIO()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    write_tar([(folder, descriptor)], out)
    os.close(descriptor)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        times = {os.path.basename(member.name): member.mtime for member in archive if member.isreg()}
    assert times == {"below": 1_400_000_000, "half": 1_400_000_001, "above": 1_400_000_001}
