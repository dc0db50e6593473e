"""RUN where the base image's /etc is not what one expects: steps have names and name servers, layers do not."""

from __future__ import annotations

import io
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ordinary import User

pytestmark = [pytest.mark.e2e, pytest.mark.root]

ODD_BASES = """FROM scratch AS base
ADD rootfs.tar /
FROM base AS links
ADD links.tar /
RUN @LOOK@
FROM scratch AS none
COPY --from=base /bin /bin
RUN @LOOK@
FROM scratch AS linked
COPY --from=base /bin /bin
ADD linked.tar /
RUN @LOOK@
FROM scratch
COPY --from=links / /links/
COPY --from=none / /none/
COPY --from=linked / /linked/
"""
LOOK = "grep localhost /etc/hosts && grep nameserver /etc/resolv.conf"


def links_to(**targets: str) -> bytes:
    """A tar of symlinks; `__` in a name is a slash, `_` a dot. One to nothing is a folder."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, target in targets.items():
            member = tarfile.TarInfo(name.replace("__", "/").replace("_", "."))
            member.type, member.linkname = (tarfile.SYMTYPE if target else tarfile.DIRTYPE), target
            member.mode = 0o755
            tar.addfile(member)
    return data.getvalue()


@pytest.mark.parametrize("runtime", ["crun", "runc", "builtin"])
@pytest.mark.parametrize("who", ["root", "user"])
def test_hosts_and_name_servers_end_up_in_no_layer_whatever_etc_is(
    inlay: Callable[..., Any],
    users: Callable[..., User],
    rootfs: Path,
    tmp_path: Path,
    runtime: str,
    who: str,
) -> None:
    """Links to places that do not exist, as systemd-resolved has them; no /etc; an /etc that is a link."""
    if runtime != "builtin" and not shutil.which(runtime):
        pytest.skip(f"{runtime} is not installed")
    context = tmp_path / "mine"
    context.mkdir()
    shutil.copy(rootfs, context / "rootfs.tar")
    stub = "../run/systemd/resolve/stub-resolv.conf"
    (context / "links.tar").write_bytes(links_to(etc__resolv_conf=stub, etc__hosts="/run/hosts"))
    (context / "linked.tar").write_bytes(links_to(etc="config/etc", config=""))
    (context / "Dockerfile").write_text(ODD_BASES.replace("@LOOK@", LOOK))
    run, folder = inlay, tmp_path
    if who == "user":
        user = users()
        run, folder, context = user.inlay, user.home, user.give(context)
    out = ("-o", f"type=tar,dest={folder}/out.tar", "--runtime", runtime)
    done = run("build", "--progress", "plain", "--root", str(folder / "s"), *out, str(context))
    assert done.code == 0, done.err
    with tarfile.open(folder / "out.tar") as tar:
        made = {member.name: member.linkname for member in tar if "/bin" not in member.name}
    ends = ("dev", "proc", "sys")
    assert {name: link for name, link in made.items() if not name.endswith(ends)} == {
        **dict.fromkeys(("links", "links/etc", "links/tmp", "links/root", "none", "linked"), ""),
        **dict.fromkeys(("links/etc/passwd", "links/etc/group", "linked/config"), ""),
        "links/etc/resolv.conf": stub,
        "links/etc/hosts": "/run/hosts",
        "linked/etc": "config/etc",
    }
