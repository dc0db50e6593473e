"""What this store remembers of steps and their files, so that later builds can say what changed.

    root/journal/step-<step key>        what a step was: its pre-image, and the contents it was done with
    root/journal/files-<content key>    the files behind a content key (see `trees.listing`)
    root/journal/source-<hash of name>  what a source's name has led to

Caches hold digests only. Nothing here decides what is cached: any file may be missing or deleted, and one
that is broken counts as missing. A file's mtime is when it was last written or confirmed.
"""

from __future__ import annotations

import os

from inlay import json
from inlay.digest import Digest
from inlay.system.filebytes import replace_file
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from inlay.trees.listing import Listing

MAX_CONTENTS = 8
"""So many contents of one input are remembered, the last ones."""
_FILE_LIMIT = 64 << 20


class StepNote(NamedTuple):
    """One step. `paths` are what it reads of its inputs; `contents` holds, by the number of an input,
    the content keys that it was done with, the last one at the end."""

    name: str
    pre_image: str
    paths: tuple[str, ...] = ()
    contents: tuple[tuple[int, tuple[str, ...]], ...] = ()

    def with_content(self, i: int, key: str) -> StepNote:
        known = dict(self.contents)
        known[i] = (*(each for each in known.get(i, ()) if each != key), key)[-MAX_CONTENTS:]
        return self._replace(contents=tuple(sorted(known.items())))


class Journal:
    """The notes under one root. Whatever cannot be read is not there, and what cannot be written is not kept."""

    def __init__(self, root: str) -> None:
        self._folder = f"{root}/journal"

    def step(self, key: str) -> StepNote | None:
        """What the step with this key was."""
        raw = self._read(f"step-{_hex(key)}")
        if not raw:
            return None
        try:
            name, pre_image, paths, contents = json.loads(raw)
            return StepNote(
                str(name),
                str(pre_image),
                tuple(map(str, paths)),
                tuple((int(i), tuple(map(str, keys))) for i, keys in contents),
            )
        except (ValueError, TypeError):
            return None

    def keep_step(self, key: str, note: StepNote) -> None:
        self._write(f"step-{_hex(key)}", json.dumps(note).encode())

    def files(self, content_key: str) -> Listing | None:
        """The files behind a content key."""
        from inlay.trees.listing import decode

        raw = self._read(f"files-{_hex(content_key)}")
        try:
            return decode(raw) if raw else None
        except ValueError:
            return None

    def has_files(self, content_key: str) -> bool:
        """Whether they are remembered; if so they stay so for longer."""
        return self._confirm(f"files-{_hex(content_key)}")

    def keep_files(self, content_key: str, listing: Listing) -> None:
        from inlay.trees.listing import encode

        self._write(f"files-{_hex(content_key)}", encode(listing))

    def pins(self, source: str) -> list[str]:
        """What the name of a source has led to, the last one at the end."""
        try:
            pins = json.loads(self._read(f"source-{_hex(Digest.of(os.fsencode(source)))}") or b"[]")
            return [str(pin) for pin in pins]
        except (ValueError, TypeError):
            return []

    def keep_pin(self, source: str, pin: str) -> None:
        known = self.pins(source)
        if known[-1:] != [pin]:
            pins = [*(each for each in known if each != pin), pin][-MAX_CONTENTS:]
            self._write(f"source-{_hex(Digest.of(os.fsencode(source)))}", json.dumps(pins).encode())

    def _read(self, name: str) -> bytes:
        try:
            with open(f"{self._folder}/{name}", "rb") as file:
                return file.read(_FILE_LIMIT)
        except OSError:
            return b""

    def _confirm(self, name: str) -> bool:
        try:
            os.utime(f"{self._folder}/{name}")
        except OSError:
            return False
        return True

    def _write(self, name: str, data: bytes) -> None:
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            replace_file(f"{self._folder}/{name}", data, mode=0o600)
        except OSError:
            return


def _hex(key: str) -> str:
    return key.rpartition(":")[2][:40]
