def choose_snapshotter(root, *, warn):
    from inlay.snapshot.overlay import Overlay

    return Overlay(root)
