"""Cache keys: how a step's result is named, and how names lead to one another.

A key names one output of a step. Root keys (of sources, and of content) are digests; every other key is
what its links say it is: the step's digest together with, for each input, the keys that input may have
(BuildKit: solver/cachekey.go). A record files a result under a key.
"""

from __future__ import annotations

from inlay.digest import sha256
from inlay.typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterable, Sequence

    from inlay.oci.descriptor import Descriptor

R = TypeVar("R")

KeyId = str
"""Names a key. Of a root key it is the digest that cache exports write."""

RANDOM = "random:"
"""Begins digests and keys that mean something in this solve only: they are never stored or exported."""

CONTENT = -1
"""Stands for the output number in the key of what an input contains."""


class CacheInput(NamedTuple, Generic[R]):
    """How a step depends on one input.

    `selector` narrows what of the input the step looks at ("" for all of it). `content_digest` digests
    that part of the input's result; None where only the input's own keys count. `guard` tells steps of one digest
    apart that do different things with the same content: BuildKit takes them for one.
    """

    selector: str = ""
    content_digest: Callable[[R], Awaitable[str]] | None = None
    guard: str = ""


class CacheMap(NamedTuple, Generic[R]):
    """What a step is, in terms of the cache.

    A step with inputs has one digest. A source may have several of equal standing: an image has one of
    its manifest and one of its layers.
    """

    digests: tuple[str, ...]
    inputs: tuple[CacheInput[R], ...] = ()


class Link(NamedTuple):
    """One way to reach a key: from key `source`, as input number `input`.

    `digest` is the `output_key` of the step and output that are reached.
    """

    source: KeyId
    input: int
    digest: str
    selector: str = ""


class Chain:
    """Layers stacked on one another: `descriptor` is the highest, `parent` what lies below.

    Chains of one import share their lower parts, so that as many chains as there are layers take no
    more room than the layers. `provider` says where the blobs are; only the result store knows its type.
    """

    __slots__ = ("depth", "descriptor", "parent", "provider")

    def __init__(self, descriptor: Descriptor, parent: Chain | None = None, provider: object = None) -> None:
        self.descriptor = descriptor
        self.parent = parent
        self.provider = provider
        self.depth: int = parent.depth + 1 if parent else 1

    def chains(self) -> list[Chain]:
        """This chain and those it stands on, lowest first."""
        stack: list[Chain] = []
        chain: Chain | None = self
        while chain is not None:
            stack.append(chain)
            chain = chain.parent
        return stack[::-1]

    def parts_above(self, known: Container[int]) -> list[Chain]:
        """The parts, lowest first, that stand on the highest one whose `id` is `known`."""
        above: list[Chain] = []
        chain: Chain | None = self
        while chain is not None and id(chain) not in known:
            above.append(chain)
            chain = chain.parent
        return above[::-1]

    def descriptors(self) -> tuple[Descriptor, ...]:
        """The layers, lowest first."""
        return tuple(chain.descriptor for chain in self.chains())


def stack(layers: Iterable[Descriptor], provider: object = None) -> Chain | None:
    """Make a chain of `layers`, lowest first; None of none."""
    chain = None
    for layer in layers:
        chain = Chain(layer, chain, provider)
    return chain


class CacheRecord(NamedTuple):
    """A result filed under `key`.

    `id` names the result in the result store; `created` is RFC 3339 text. A record of an import has a
    `remote` chain and an id that is good in this process only.
    """

    id: str
    key: KeyId
    created: str
    remote: Chain | None = None


class RecordNode(NamedTuple):
    """A record as caches carry it between machines.

    Each input has links (selector, position of another node); a root has no inputs. `results` are pairs
    (chain, created).
    """

    digest: str
    inputs: tuple[tuple[tuple[str, int], ...], ...] = ()
    results: tuple[tuple[Chain, str], ...] = ()


RecordGraph = list[RecordNode]
"""Nodes in an order in which links lead only to earlier ones."""


def output_key(digest: str, output: int) -> KeyId:
    """Name output `output` of the step that `digest` describes, or `CONTENT` that digests to it.

    The bytes are BuildKit's (solver/cachemanager.go). A random digest gives a random key.
    """
    if digest.startswith(RANDOM):
        return digest if output == 0 else f"{digest}@{output}"
    return "sha256:" + sha256(f"{digest}@{output}".encode()).hexdigest()


def guarded(key: KeyId, guard: str) -> KeyId:
    """The content key `key` for steps with this guard; no other step finds it."""
    return f"{key}~{guard}" if guard else key


def unguarded(key: KeyId) -> KeyId:
    """The key as exports write it."""
    return key.partition("~")[0]


def is_random(key: str) -> bool:
    return key.startswith(RANDOM)


def derived_key(digest: str, inputs: Sequence[Sequence[tuple[KeyId, str]]]) -> KeyId:
    """Make the id of a new key: `digest` is the `output_key`, `inputs` the links (source, selector) of each input
    that decide what it is.

    Whoever meets the same links makes the same id, be it another process or an import. An input that is
    known by random keys only makes the key random.
    """
    prefix, hashed = "sha256:", digest
    for links in inputs:
        source, selector = links[0] if len(links) == 1 else min(links, key=_stable_first)
        if source.startswith(RANDOM):
            prefix = RANDOM
        hashed += f"\0{source}\0{selector}"
    return prefix + sha256(hashed.encode()).hexdigest()


def _stable_first(link: tuple[KeyId, str]) -> tuple[bool, tuple[KeyId, str]]:
    return is_random(link[0]), link
