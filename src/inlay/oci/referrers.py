"""Referrers: manifests that say of what they are (OCI image spec, `subject`), and how they are found.

Where a registry does not list them by itself, and in OCI layouts, an index does whose tag is made of the
subject's digest (distribution spec 1.1, "Referrers Tag Schema"). That index is shared with other tools
(signatures, SBOMs): what they wrote in it stays as it is.
"""

from __future__ import annotations

from inlay import json
from inlay.errors import ContentError
from inlay.oci.descriptor import OCI_INDEX
from inlay.oci.image import parse_object
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from inlay.digest import Digest
    from inlay.oci.descriptor import Descriptor


def referrers_tag(subject: Digest) -> str:
    """The tag of the index of what refers to `subject`."""
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def is_referrers_tag(tag: str) -> bool:
    algorithm, _, encoded = tag.partition("-")
    return algorithm in ("sha256", "sha512") and len(encoded) == 64 and not encoded.strip("0123456789abcdef")


def with_referrer(raw: bytes, referrer: Descriptor, replaced: Sequence[Descriptor] = ()) -> bytes:
    """The index `raw` (empty: none yet) with `referrer` in the place of those `replaced`; `raw` itself where
    nothing is to be done. Raises `ContentError` where `raw` is no index, and so nobody's to change."""
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if raw:
        index = parse_object(raw, "index of referrers")
    listed = index.get("manifests")
    if not isinstance(listed, list) or index.get("mediaType", OCI_INDEX) != OCI_INDEX:
        raise ContentError("what has the tag of referrers is no index")
    gone = {str(each.digest) for each in replaced} - {str(referrer.digest)}
    kept = [each for each in listed if not (isinstance(each, dict) and each.get("digest") in gone)]
    if not any(isinstance(each, dict) and each.get("digest") == referrer.digest for each in kept):
        kept.append(referrer.to_json())
    if raw and kept == listed:
        return raw
    return json.dumps({**index, "manifests": kept}, ensure_ascii=False).encode()
