"""sources.image: what an image is keyed by (BuildKit: source/containerimage/pull.go)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inlay.digest import Digest
from inlay.llb.source_keys import source_digest
from inlay.oci.descriptor import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from inlay.oci.image import ImageConfig, Manifest
from inlay.platform import Platform
from inlay.sources.image import PinnedImage, image_digests

AMD64 = Platform("linux", "amd64")
DIGEST = Digest.of("index")
DIFF_IDS = [str(Digest.of(name)) for name in ("one", "two")]


def digests(rootfs: Any, platform: Platform = AMD64) -> tuple[str, str]:
    config = ImageConfig.parse(json.dumps({"rootfs": rootfs}).encode())
    layers = (Descriptor(OCI_LAYER_GZIP, Digest.of("blob"), 1),) * 2
    manifest = Manifest(b"", OCI_MANIFEST, Descriptor(OCI_CONFIG, config.digest, 1), layers)
    return image_digests(PinnedImage(DIGEST, manifest, config, None), platform)  # type: ignore[arg-type]


def by_reference(**more: object) -> str:
    text = json.dumps({"Digest": DIGEST, "OS": "linux", "Arch": "amd64", **more}, separators=(",", ":"))
    return source_digest(Digest.of(text))


def test_an_image_is_known_by_its_digest_and_by_its_layers() -> None:
    one, two = DIFF_IDS
    chain = Digest.of(f"{one} {two}")
    assert digests({"type": "layers", "diff_ids": DIFF_IDS}) == (by_reference(), source_digest(chain))
    assert digests({"type": "layers", "diff_ids": [one]})[1] == source_digest(one)


@pytest.mark.parametrize("rootfs", [{"type": "other", "diff_ids": DIFF_IDS}, {"type": "layers"}, {}, None])
def test_an_image_of_no_layers_is_known_by_its_digest_alone(rootfs: Any) -> None:
    assert digests(rootfs) == (by_reference(), by_reference())


def test_all_of_the_platform_counts() -> None:
    rootfs = {"type": "layers", "diff_ids": DIFF_IDS}
    platform = Platform("windows", "amd64", "", "10.0.17763", ("win32k",))
    text = f'{{"Digest":"{DIGEST}","OS":"windows","Arch":"amd64","OSVersion":"10.0.17763","OSFeatures":["win32k"]}}'
    assert digests(rootfs, platform)[0] == source_digest(Digest.of(text))
    assert digests(rootfs, AMD64._replace(variant="v3"))[0] == by_reference(Variant="v3")
