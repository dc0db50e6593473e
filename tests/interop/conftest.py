"""The base image is the e2e tests' own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("e2e_fixtures", Path(__file__).parent.parent / "e2e/conftest.py")
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
base, rootfs = _fixtures.base, _fixtures.rootfs
