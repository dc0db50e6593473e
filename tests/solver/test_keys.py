"""solver.keys: names of keys."""

from __future__ import annotations

from inlay.digest import Digest
from inlay.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from inlay.solver.keys import CONTENT, output_key, stack


def test_an_output_is_named_as_buildkit_names_it() -> None:
    source = "sha256:2406e02d5f37f24b3b04b6cc5275a3b1ec6779f8d88c93a1fadcc2de7ae6e104"
    assert output_key(source, 0) == "sha256:67e82ed4e7ace6df5cc0e41ba366193480c4256b832adffe68a7ec34294df482"
    content = "sha256:286f4db492f491f7b3f357be9b60a4964ab5322915dda76c7810107aa9e116c3"
    assert (
        output_key(content, CONTENT)
        == "sha256:c24a47b576469b52903dd7e5045a62fee5855b447dee1771d67b829458d2c08e"
    )


def test_a_random_digest_gives_a_random_key() -> None:
    assert output_key("random:abc", 0) == "random:abc"
    assert output_key("random:abc", 1).startswith("random:abc")


def test_a_chain_gives_its_layers_lowest_first() -> None:
    layers = tuple(Descriptor(OCI_LAYER_GZIP, Digest.of(name), 1) for name in "abc")
    chain = stack(layers, "here")
    assert chain is not None
    assert chain.descriptors() == layers
    assert (chain.depth, chain.provider) == (3, "here")
    assert stack([]) is None


def test_a_long_chain_is_dropped_without_a_deep_stack() -> None:
    chain = stack(Descriptor(OCI_LAYER_GZIP, Digest("sha256:" + "0" * 64), n) for n in range(200_000))
    assert chain is not None
    assert chain.depth == 200_000
    del chain
