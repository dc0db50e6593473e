"""Finding and pushing referrers, also in a registry without the referrers API (distribution spec 1.1, "Listing
Referrers", "Pushing Manifests with Subject").

Such a registry lists referrers in an index that clients read, change and write back. Two that do so at the
same time may undo each other's change, so the write is conditional, which some registries heed, and looked
at again after longer than another's change can take: what is missing then is put in again.
"""

from __future__ import annotations

import time

from inlay.errors import NotFound, RegistryError
from inlay.oci.descriptor import OCI_INDEX
from inlay.oci.image import Index, parse_manifest
from inlay.oci.referrers import referrers_tag, with_referrer
from inlay.regexp import regexp
from inlay.registry.client import MANIFEST_LIMIT
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.digest import Digest
    from inlay.oci.descriptor import Descriptor
    from inlay.registry.client import Client

_MAX_PAGES = 50
_NEXT_PAGE = regexp(r'<([^>]*)>\s*;\s*rel="?next"?')
_TRIES = 12
_SHORTEST_WAIT_S = 0.02


def find_referrers(client: Client, subject: Digest, artifact_type: str) -> Sequence[Descriptor]:
    """Descriptors of the manifests whose subject is `subject`: all, or at least those of an artifact type."""
    found = _listed(client, subject, artifact_type)
    if found is not None:
        return found
    try:
        index = client.fetch_manifest(referrers_tag(subject))
    except NotFound:
        return ()
    return index.manifests if isinstance(index, Index) else ()


def _listed(client: Client, subject: Digest, artifact_type: str) -> list[Descriptor] | None:
    """All pages of the referrers API; None where the registry has none. It need not heed the type."""
    request = client.request("GET", f"referrers/{subject}", "list the referrers of", client.named(subject))
    if artifact_type:
        request = request._replace(url=request.url.with_query(artifactType=artifact_type))
    found: list[Descriptor] = []
    for _ in range(_MAX_PAGES):
        response, raw = client.transport.fetch(request, limit=MANIFEST_LIMIT)
        if response.status != 200 or response.header("content-type").partition(";")[0] != OCI_INDEX:
            if response.status in (200, 400, 404, 405):
                return None
            raise client.transport.refusal(response, request, body=raw)
        index = parse_manifest(raw, OCI_INDEX)
        found += index.manifests if isinstance(index, Index) else ()
        following = _NEXT_PAGE.search(response.header("link"))
        if following is None:
            return found
        request = request._replace(url=client.transport.redirected(request, following[1]))
    return found


def push_referrer(
    client: Client, raw: bytes, referrer: Descriptor, subject: Digest, replaced: Sequence[Descriptor]
) -> None:
    """Push the manifest `raw` and have it listed in the place of those `replaced` (see `Repository`)."""
    response = client.put_manifest(raw, referrer.media_type)
    if not response.header("oci-subject"):
        _list(client, referrer, subject, replaced)
    for each in replaced:
        if each.digest != referrer.digest:
            try:
                client.delete_manifest(each.digest)
            except RegistryError:  # who may push need not be allowed to delete: then there is one more
                break


def _list(client: Client, referrer: Descriptor, subject: Digest, replaced: Sequence[Descriptor]) -> None:
    """Change the index that the registry has under the referrers' tag."""
    tag = referrers_tag(subject)
    why = "others change it at the same time"
    for _ in range(_TRIES):
        began = time.monotonic()
        raw, etag = client.read_tag(tag)
        changed = with_referrer(raw, referrer, replaced)
        if changed == raw:
            return
        condition = {"If-Match": etag} if etag else {} if raw else {"If-None-Match": "*"}
        try:
            client.put_manifest(changed, OCI_INDEX, tag, condition)
        except RegistryError as error:
            if error.status not in (400, 404):
                raise
            why = str(error)  # what it lists besides may have been deleted since it was read
        client.transport.pause(max(2 * (time.monotonic() - began), _SHORTEST_WAIT_S))
    raise RegistryError(
        f"cannot list a referrer of {client}@{subject} under the tag {tag}: {why}; try again later",
        reference=f"{client}:{tag}",
    )
