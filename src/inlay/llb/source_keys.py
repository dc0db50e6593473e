"""The keys of sources: images, downloads and checkouts. A local folder has none that outlives its session.

BuildKit: source/{containerimage,http,git}/*.go `CacheKey`.
"""

from __future__ import annotations

from inlay.digest import Digest
from inlay.golang import json as gojson
from inlay.llb.keys import platform_fields
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.platform import Platform


def source_digest(key: str) -> Digest:
    """The op digest of a source with that key."""
    return Digest.of(f"buildkit.source.v0:{key}")


def image_keys(digest: Digest, platform: Platform, chain: Digest | str) -> tuple[str, str]:
    """The two keys of an image: by what its reference resolves to (an index, if it is one) and by its layers.

    `chain` is the chain id of its layers; where it is empty both keys are the first.
    """
    fields: dict[str, object] = {"Digest": digest, **platform_fields(platform)}
    by_reference = Digest.of(gojson.dumps(fields))
    return by_reference, chain or by_reference


def http_key(
    filename: str,
    checksum: Digest,
    *,
    last_modified: str = "",
    perm: int = 0,
    uid: int = 0,
    gid: int = 0,
    auth_header_secret: str = "",
    headers: Sequence[tuple[str, str]] = (),
) -> str:
    """The key of a download. `last_modified` in HTTP's form; empty where the checksum was given."""
    fields: dict[str, object] = {
        "Filename": filename,
        "Perm": perm,
        "UID": uid,
        "GID": gid,
        "Checksum": checksum,
    }
    if last_modified:
        fields["LastModTime"] = last_modified
    if auth_header_secret:
        fields["AuthHeaderSecret"] = auth_header_secret
    if headers:
        fields["Header"] = [{"Name": name, "Value": value} for name, value in sorted(headers)]
    return Digest.of(gojson.dumps(fields))


def git_key(
    commit: str,
    ref: str = "",
    *,
    subdir: str = "",
    keep_git_dir: bool = False,
    skip_submodules: bool = False,
    mtime: str = "",
    bundle: bool = False,
) -> str:
    """The key of a checkout of `commit`, which `ref` (a full name) was found to be."""
    key = commit
    if keep_git_dir:
        key += ".git" + (f"#{ref}" if ref else "")
    if subdir:
        key += f":{subdir}"
    if skip_submodules:
        key += "(skip-submodules)"
    if mtime and mtime != "checkout":
        key += f"(mtime={mtime})"
    return key + ("(bundle)" if bundle else "")
