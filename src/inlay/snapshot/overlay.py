from __future__ import annotations

import os

from inlay.snapshot.mounts import make_read_only, new_mount
from inlay.snapshot.snapshotter import LayerDirs


class _Mounted:
    def __init__(self, fd):
        self.fd = fd

    @property
    def path(self):
        return f"/proc/self/fd/{self.fd}"

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Active(_Mounted):
    def __init__(self, fd, incoming):
        super().__init__(fd)
        self.incoming = incoming

    def commit(self):
        self.close()
        return self.incoming.commit()

    def discard(self):
        self.close()
        self.incoming.discard()


class Overlay(LayerDirs):
    def _mount(self, layers, upper=None):
        options = [(b"lowerdir+", os.fsencode(self.upper(l))) for l in reversed(layers)] or [(b"lowerdir+", os.fsencode(self.root + "/empty"))]
        if upper:
            os.makedirs(f"{upper.folder}/work", exist_ok=True)
            options += [(b"upperdir", os.fsencode(upper.directory)), (b"workdir", os.fsencode(upper.folder + "/work")), (b"volatile", None)]
        elif len(options) == 1:
            options.append((b"lowerdir+", os.fsencode(self.root + "/empty")))
        return new_mount(b"overlay", options)

    def view(self, layers):
        return _Mounted(self._mount(layers))

    def prepare(self, layers):
        incoming = self.receive()
        return _Active(self._mount(layers, incoming), incoming)
