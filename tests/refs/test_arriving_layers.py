"""Layers are unpacked while they come in, once, and whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from inlay.archive.tar import TarEntry, write_entries
from inlay.content.store import ContentStore
from inlay.digest import Digest
from inlay.errors import ContentError, DigestMismatch
from inlay.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from inlay.refs.ref import Ref
from inlay.refs.store import RefStore
from inlay.refs.table import SCHEMA
from inlay.snapshot.native import Native
from inlay.tasks import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from inlay.refs.ref import Layer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


MOTD = hashlib.shake_128(b"motd").digest(600_000)


def layer_tar() -> bytes:
    out = io.BytesIO()
    write_entries([TarEntry(b"etc/motd", data=MOTD, size=len(MOTD))], out)
    return out.getvalue()


class Place:
    """A place that has one blob, whose transfer breaks off after `whole` bytes."""

    location = "place"

    def __init__(self, data: bytes, whole: int = 1 << 30) -> None:
        self.data = data
        self.whole = whole
        self.images = self.blobs = self

    def has_blob(self, descriptor: Descriptor) -> bool:
        return True

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        whole = self.whole

        class Stream(io.BytesIO):
            def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
                if self.tell() >= whole:
                    raise ContentError("the connection broke off")
                return super().readinto(buffer[:1000])

        stream = Stream(self.data)
        stream.seek(offset)
        return stream


class CountingStore(ContentStore):
    """Counts how often blobs are read that are here."""

    __slots__ = ("opened",)

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.opened = 0

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        self.opened += 1
        return super().open_blob(descriptor, offset, verify=verify)


class Machine:
    def __init__(self, root: Path) -> None:
        self.snapshots = Native(str(root / "snapshots"))
        self.content = CountingStore(str(root))
        self.database = sqlite3.connect(":memory:", check_same_thread=False)
        self.database.executescript(SCHEMA)
        self.refs = RefStore(self.database, self.content, lambda: self.snapshots, lambda location: None)

    def unpack(self, place: Place, diff_id: Digest | None) -> Layer:
        blob = Descriptor(OCI_LAYER_GZIP, Digest.of(place.data), len(place.data))
        layer = self.refs.add_blob(blob, diff_id, place)  # type: ignore[arg-type]

        async def directories() -> None:
            self.refs.unpacking.forget_failures()
            await self.refs.unpacking.directories(Ref((layer,)))

        run(directories())
        return layer

    def is_clean(self) -> bool:
        return not self.snapshots.layers() and not os.listdir(f"{self.snapshots.root}/new")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.database.close()


def motd(machine: Machine, layer: Layer) -> bytes:
    assert layer.directory is not None
    with open(f"{machine.snapshots.upper(layer.directory)}/etc/motd", "rb") as file:
        return file.read()


@pytest.mark.parametrize("known", [True, False])
def test_a_layer_is_unpacked_while_it_comes_in(machine: Machine, known: bool) -> None:
    tar = layer_tar()
    layer = machine.unpack(Place(gzip.compress(tar)), Digest.of(tar) if known else None)
    assert motd(machine, layer) == MOTD
    assert layer.diff_id == Digest.of(tar)
    assert machine.content.opened == 0


def test_a_layer_that_is_here_is_unpacked_from_the_store(machine: Machine) -> None:
    tar = layer_tar()
    place = Place(gzip.compress(tar))
    machine.content.put(place.data)
    assert motd(machine, machine.unpack(place, Digest.of(tar))) == MOTD
    assert machine.content.opened == 1


def test_what_broke_off_is_unpacked_once_the_rest_came_in(machine: Machine) -> None:
    tar = layer_tar()
    packed = gzip.compress(tar)
    with pytest.raises(ContentError, match="the connection broke off"):
        machine.unpack(Place(packed, whole=1000), Digest.of(tar))
    assert machine.is_clean()
    assert motd(machine, machine.unpack(Place(packed), Digest.of(tar))) == MOTD


def test_a_broken_layer_leaves_nothing_and_is_named(machine: Machine) -> None:
    for broken, message in (
        (gzip.compress(layer_tar())[:-500], "the gzip data is cut off"),
        (gzip.compress(layer_tar()[:1000]), "the archive ends inside a file"),
    ):
        with pytest.raises(ContentError, match=f"{Digest.of(broken)} cannot be unpacked: {message}"):
            machine.unpack(Place(broken), None)
        assert machine.is_clean()


def test_a_layer_that_is_not_what_its_image_says_leaves_nothing(machine: Machine) -> None:
    with pytest.raises(DigestMismatch, match="but its image says"):
        machine.unpack(Place(gzip.compress(layer_tar())), Digest.of(b"something else"))
    assert machine.is_clean()
