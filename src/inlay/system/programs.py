"""Programs of this machine that builds start."""

from __future__ import annotations

import os


def find_program(name: str) -> str:
    """The path of a program on PATH, or where the system's own are; empty where there is none."""
    folders = os.environ.get("PATH", "").split(":")
    for folder in [*folders, "/usr/bin", "/usr/sbin", "/bin", "/sbin"]:
        if folder and os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    return ""
