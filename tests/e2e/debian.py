"""A small Debian root file system, made of packages that this machine has installed: debootstrap without a network."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WANTED = ("apt", "passwd", "bash", "base-passwd", "base-files")
_LEFT_OUT = (
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/locale",
    "/usr/share/info",
    "/usr/share/common-licenses",
)
_FOLDERS = {"tmp": 0o1777, "var/tmp": 0o1777, "dev": 0o755, "proc": 0o755, "sys": 0o755, "root": 0o700}


def installed() -> dict[str, dict[str, str]]:
    """The fields of each installed package's paragraph in dpkg's status file, with the whole as `*`."""
    found = {}
    with open("/var/lib/dpkg/status", encoding="utf-8") as file:
        for paragraph in file.read().split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
            if fields.get("Status", "").endswith(" installed"):
                found[fields["Package"]] = {**fields, "*": paragraph.strip()}
    return found


def closure(packages: dict[str, dict[str, str]]) -> list[str]:
    """`WANTED` and what is essential, with all that they depend on."""
    provided = {}
    for name, fields in packages.items():
        for each in re.split(r",\s*", fields.get("Provides", "")):
            provided.setdefault(each.split(" ")[0], name)
    pending = [*WANTED, *(name for name, fields in packages.items() if fields.get("Essential") == "yes")]
    needed: dict[str, None] = {}
    while pending:
        name = pending.pop()
        if name in needed or name not in packages:
            continue
        needed[name] = None
        for kind in ("Depends", "Pre-Depends"):
            for choice in filter(None, re.split(r",\s*", packages[name].get(kind, ""))):
                names = [re.split(r"[ :(]", each)[0] for each in choice.split(" | ")]
                there = [each if each in packages else provided.get(each, "") for each in names]
                pending += [each for each in there if each][:1]
    return sorted(needed)


def write_root(path: Path) -> None:
    """Write the root file system as a tar to `path`."""
    packages = installed()
    names = closure(packages)
    listed = subprocess.run(["dpkg-query", "-L", *names], capture_output=True, text=True, check=True)
    with tarfile.open(path, "w") as tar:
        for name in sorted({*_usual_links(), *map(_real_name, listed.stdout.splitlines())}):
            if os.path.lexists(name) and not name.startswith(_LEFT_OUT):
                tar.add(name, name.lstrip("/"), recursive=False)
        for folder, mode in _FOLDERS.items():
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, mode
            tar.addfile(member)
        for kind in ("passwd", "group"):
            tar.add(f"/usr/share/base-passwd/{kind}.master", f"etc/{kind}")
        _add_text(tar, "etc/shadow", "root:*:19000:0:99999:7:::\n", mode=0o640, gid=42)
        _add_text(tar, "etc/gshadow", "root:*::\n", mode=0o640, gid=42)
        status = "\n\n".join(packages[name]["*"] for name in names)
        _add_text(tar, "var/lib/dpkg/status", status + "\n\n")
        _add_text(tar, "var/lib/dpkg/available", "")
        for found in _dpkg_files(names):
            tar.add(found, found.lstrip("/"))


def _real_name(path: str) -> str:
    """A file's name by way of no links: packages name /bin/sh, which is in /usr/bin."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _usual_links() -> Iterator[str]:
    return (name for name in ("/bin", "/sbin", "/lib", "/lib64") if os.path.islink(name))


def _dpkg_files(names: list[str]) -> Iterator[str]:
    folder = "/var/lib/dpkg/info"
    for found in sorted(os.listdir(folder)):
        if found == "format" or found.rpartition(".")[0].partition(":")[0] in names:
            yield f"{folder}/{found}"


def _add_text(tar: tarfile.TarFile, name: str, text: str, *, mode: int = 0o644, gid: int = 0) -> None:
    import io

    member = tarfile.TarInfo(name)
    member.mode, member.gid, member.size = mode, gid, len(text.encode())
    tar.addfile(member, io.BytesIO(text.encode()))
