"""An ordinary user that the tests make, without changing the machine that they run on.

The user exists in a mount namespace of its processes alone: there /etc has it, and folders that only root may
enter are opened as far as the interpreter and this checkout lie in them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from running import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME, UID, GID = "ordinary", 4711, 4712
FIRST_ID, ID_COUNT = 1_000_000, 65536
CHECKOUT = Path(__file__).parents[1]


class User:
    """One who may use `ids` ids besides its own (by /etc/subuid and /etc/subgid). `home` is its own folder.

    The programs `without` are not there for it. `first` is a command that root runs before each of its own, where
    the user is.
    """

    def __init__(
        self, folder: Path, *, ids: int = ID_COUNT, without: Sequence[str] = (), first: str = ":"
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        os.chown(self.home, UID, GID)
        grant = f"echo {NAME}:{FIRST_ID}:{ids}" if ids else ":"
        self._script = "\n".join(
            [
                "set -e",
                *self._open_folders(),
                f"etc={folder}/etc-$$",
                "mkdir $etc; mount -t tmpfs tmpfs $etc; mkdir $etc/up $etc/work",
                "mount -t overlay -o lowerdir=/etc,upperdir=$etc/up,workdir=$etc/work etc /etc",
                f"echo {NAME}:x:{UID}:{GID}::{self.home}:/bin/sh >> /etc/passwd",
                f"echo {NAME}:x:{GID}: >> /etc/group",
                f"{{ {grant}; }} > /etc/subuid; cp /etc/subuid /etc/subgid",
                *(f"mount --bind /dev/null {shutil.which(name)}" for name in without),
                first,
                "umount -l $etc; rmdir $etc",
                f'exec setpriv --reuid {UID} --regid {GID} --clear-groups --inh-caps=-all "$@"',
            ]
        )

    def _open_folders(self) -> list[str]:
        """Commands that hide folders which only root may enter, but for what is needed in them."""
        needed = {str(CHECKOUT), sys.prefix, sys.base_prefix}
        closed = {folder for path in needed if (folder := _closed_folder(path))}
        commands = []
        for number, folder in enumerate(sorted(closed)):
            kept = [path for path in sorted(needed) if _closed_folder(path) == folder]
            places = [f"{self.folder}/kept-$$-{number}-{position}" for position in range(len(kept))]
            for path, place in zip(kept, places, strict=True):
                commands.append(f"mkdir {place}; mount --rbind {shlex.quote(path)} {place}")
            commands.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(folder)}")
            for path, place in zip(kept, places, strict=True):
                commands.append(f"mkdir -p {shlex.quote(path)}; mount --rbind {place} {shlex.quote(path)}")
                commands.append(f"umount -l {place}; rmdir {place}")
        return commands

    def run(
        self, *command: str, env: dict[str, str] | None = None, stdin: bytes = b"", timeout_s: float = 300
    ) -> Outcome:
        """Run a command as the user, with nothing of the caller's environment."""
        done = subprocess.run(
            self.command(*command),
            input=stdin,
            capture_output=True,
            check=False,
            cwd="/",
            env={**self.environment, **(env or {})},
            timeout=timeout_s,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    @property
    def environment(self) -> dict[str, str]:
        """What the user's programs find in theirs."""
        return {"HOME": str(self.home), "PATH": os.defpath + ":/usr/sbin:/sbin", "LANG": "C.UTF-8"}

    def command(self, *command: str) -> list[str]:
        """The command that root starts for the user to run one; it is the same process. Start it in `/`."""
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", self._script, "sh", *command]

    def inlay(self, *arguments: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> Outcome:
        return self.run(sys.executable, "-m", "inlay", *arguments, env=env, stdin=stdin)

    def give(self, path: Path) -> Path:
        """A copy of a file or folder that belongs to the user."""
        place = self.home / path.name
        if path.is_dir():
            shutil.copytree(path, place, symlinks=True)
        else:
            shutil.copy(path, place)
        for found in [place, *place.rglob("*")]:
            os.chown(found, UID, GID, follow_symlinks=False)
        return place


def _closed_folder(path: str) -> str:
    """The first folder on the way to `path` that others than its owner may not enter; empty for none."""
    for folder in reversed(Path(path).parents):
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return ""
