"""From nothing, BuildKit and inlay make the same records, with the same digests, links and heights of results."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from buildkit import of_folder

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit import Builders

    from conftest import RunningRegistry

pytestmark = [pytest.mark.interop, pytest.mark.root]

DOCKERFILES = {
    "whiteouts": """FROM @BASE@ AS a
RUN mkdir -p /d/x /d/y && touch /d/x/1 /d/y/2 /d/f /d/.hid
RUN rm -r /d/x && rm /d/f && mkdir /d/x && touch /d/x/new
RUN rm -rf /d/y; ln -s x /d/y; ln /d/x/new /d/hard; mkfifo /d/ff
FROM @BASE@
COPY --from=a /d /d
COPY --from=a /d/* /e/
COPY --from=a /d/x/../y/* /g/
""",
    "wildcards": """FROM @BASE@ AS a
RUN mkdir -p /r/a1/b/c /r/a2/b /r/a3 /s/t && cd /r && touch a1/b/c/f1 a1/b/f2 a2/b/f3 a3/f4 /s/t/f5 && \\
    ln -s /r/a1 /r/al && ln -s ../s /r/as && ln -s a1/b/f2 /r/link2
FROM @BASE@
COPY --from=a /r/a*/b /1/
COPY --from=a /r/a*/b/* /2/
COPY --from=a /r/a?/* /3/
COPY --from=a /r/[a-c]1/b/c/f* /4/
COPY --from=a /r/al/b/* /5/
COPY --from=a /r/as/t/* /6/
COPY --from=a /r/link* /7/
COPY --from=a /r/nothing* /8/
COPY --from=a /r/al /9
COPY --from=a /r/as/ /10/
COPY --from=a /r/a1/b/f2 /r/link* /s/t/* /11/
""",
    "parents": """FROM @BASE@ AS a
RUN mkdir -p /p/q/r/s && touch /p/q/r/s/f /p/q/r/g /p/h && ln -s q /p/l
FROM @BASE@
COPY --from=a --parents /p/q/r/s/f /p/h /1/
COPY --from=a --parents /p/./q/r/g /2/
COPY --from=a --parents /p/*/r /3/
COPY --from=a --parents /p/**/f /4/
COPY --parents dir/sub/*.txt dir/a /5/
COPY --parents dir/./sub /6/
COPY --parents dir* /7/
""",
    "excludes": """FROM @BASE@ AS a
RUN mkdir -p /p/q/r && touch /p/q/r/a.txt /p/q/r/b.md /p/c.txt /p/q/d.md
FROM @BASE@
COPY --from=a --exclude=*.txt /p /1/
COPY --from=a --exclude=**/*.txt /p /2/
COPY --from=a --exclude=q --exclude=!q/r /p /3/
COPY --exclude=sub/** dir /4/
COPY --exclude=*.md --exclude=sub dir* /5/
COPY --exclude=**/*.txt --parents dir/sub /6/
COPY --from=a --exclude=q/** --exclude=!q/r/b.md /p/ /7/
COPY --from=a --exclude=* /p/ /8/
""",
    "owners": """FROM @BASE@ AS a
RUN echo hi > /f && chown 12:34 /f && chmod 4711 /f && mkdir -m 1777 /t && mkdir -m 2750 /g
FROM @BASE@
COPY --from=a /f /t /g /o/
COPY --from=a --chown=nobody /f /p/
COPY --from=a --chown=nobody:nogroup --chmod=u=rwX,go=r /t /q/
COPY --from=a --chown=:34 /f /r
COPY --from=a --chown=55 --chmod=0640 /f /s
ADD --chown=root:nogroup f /u
USER nobody
WORKDIR /w/x
COPY f y
RUN id > y2
USER 7:8
WORKDIR z
""",
    "links": """FROM @BASE@ AS a
RUN mkdir -p /x && touch /x/1 /x/2
FROM scratch AS s
COPY --from=a /x /
COPY --link f /lf
FROM @BASE@
COPY --link --from=a /x/1 /one/
COPY --link --from=a --chown=9 /x/2 /two/
COPY --link dir /d/
ADD --link a.tar /t/
COPY --link --from=s / /s/
COPY --link --chmod=0700 f /fl
RUN ls /one /two > /out
COPY --link f /f2
""",
    "mounts": """FROM @BASE@ AS a
RUN mkdir -p /x/y && touch /x/1 /x/y/2 && ln -s y /x/ly
FROM @BASE@
RUN --mount=from=a,source=/x,target=/m ls /m > /l1
RUN --mount=from=a,source=/x/ly,target=/m --mount=from=a,source=/x/1,target=/n ls /m /n > /l2
RUN --mount=from=a,source=/x,target=/m,rw touch /m/new
RUN --mount=target=/ctx cat /ctx/f > /l3
RUN --mount=source=dir,target=/ctx ls /ctx > /l4
RUN --mount=type=cache,target=/c,id=foo touch /c/1
RUN --mount=type=cache,target=/c,sharing=locked touch /c/1
RUN --mount=type=cache,target=/c,uid=5,gid=6,mode=0700 touch /c/1
RUN --mount=type=cache,from=a,source=/x,target=/c ls /c > /l5
RUN --mount=type=tmpfs,target=/t,size=1048576 touch /t/x
RUN --mount=type=secret,id=no,required=false --mount=type=secret,id=n2,env=N2 true
RUN --mount=type=bind,from=@BASE@,source=/etc,target=/be cat /be/passwd > /l6
RUN --network=none true
RUN --mount=from=a,target=/all ls /all/x > /l7
""",
    "texts": """FROM @BASE@
ENV A=1 B="x y"
RUN echo "$A $B <&>" > /o
SHELL ["/bin/sh","-ec"]
RUN echo 'é\\u2028 \\x07' > /p
RUN ["sh","-c","true"]
ARG Q=5
RUN echo $Q > /q
RUN <<EOF
echo a > /1
echo b > /2
EOF
COPY <<one <<"two" /h/
x $HOME
one
y $HOME
two
""",
    "ignored": """FROM @BASE@
COPY . /all
COPY dir /dir
COPY dir/sub /s/
COPY f* /ff/
""",
    "adds": """FROM @BASE@
ADD a.tar /1/
ADD a.tar f /2/
ADD --unpack=false a.tar /3/
ADD a.t* /4/
ADD dir /5/
ADD l /6
COPY l /7
COPY ld /8/
COPY ld/x.txt /9/
COPY dir/../f /10
""",
    "specials": """FROM @BASE@ AS a
RUN mknod /c c 1 3; mknod /b b 7 0; mkfifo /p; mkdir /s; mknod /s/c c 5 1; touch '/s/sp ace' '/s/é'; \\
    printf x > "/s/$(printf 'bad\\377name')"
FROM @BASE@
COPY --from=a /c /1/
COPY --from=a /s /2/
COPY --from=a /s/* /3/
COPY --from=a /p /4/
""",
    "equal": """FROM @BASE@ AS a
RUN true
RUN true
FROM a AS b
RUN touch /b
FROM a AS c
RUN touch /c
FROM @BASE@
COPY --from=b /b /b
COPY --from=c /c /c
COPY --from=b /b /b
RUN true
""",
    "scratch": """FROM @BASE@ AS base
RUN echo 1 > /one
FROM base AS x
RUN echo 2 > /two
FROM base AS y
COPY --from=x /two /two
RUN cat /two > /three
FROM scratch
WORKDIR /w
COPY --from=y / /
COPY --from=x /two /z/two
COPY --from=base /one /etc/passwd k/
WORKDIR ../c
""",
}
"""By what they are about. The image `@BASE@` has busybox, and the users root and nobody."""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "dir/sub/deep").mkdir(parents=True)
    for name in ("f", "f2", "dir/a", "dir/b.md", "dir/sub/x.txt", "dir/sub/y.txt", "dir/sub/deep/z.txt"):
        (folder / name).write_text(name + "\n")
    (folder / "f2").chmod(0o600)
    (folder / "l").symlink_to("f")
    (folder / "ld").symlink_to("dir/sub")
    os.setxattr(folder / "f", "user.test", b"v")
    with tarfile.open(folder / "a.tar", "w") as tar:
        tar.add(folder / "dir", arcname="td")
    return folder


def records(registry: RunningRegistry, repository: str, tag: str) -> set[str]:
    """The records of a cache: what each is, how its inputs lead to it, and how many layers its result has."""

    def get(path: str) -> Any:
        request = urllib.request.Request(f"http://{registry.host}/v2/{repository}/{path}")
        request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    config = get(f"blobs/{get(f'manifests/{tag}')['config']['digest']}")
    layers = config["layers"]

    def height(layer: int) -> int:
        parent: int = layers[layer].get("parent", 0)
        return 1 + (height(parent) if parent >= 0 else 0)

    names: dict[int, str] = {}

    def name(number: int) -> str:
        if number not in names:
            record = config["records"][number]
            inputs = [
                sorted((link.get("selector", ""), name(link["link"])) for link in links)
                for links in record.get("inputs", ())
            ]
            heights = [height(result["layer"]) for result in record.get("layers", ())]
            names[number] = hashlib.sha256(repr((record["digest"], inputs, heights)).encode()).hexdigest()
        return names[number]

    return {name(number) for number in range(len(config["records"]))}


@pytest.mark.parametrize("about", DOCKERFILES)
def test_both_make_the_same_records(
    builders: Builders, docker_registry: RunningRegistry, context: Path, base: str, about: str
) -> None:
    (context / "Dockerfile").write_text(DOCKERFILES[about].replace("@BASE@", base))
    if about == "ignored":
        (context / ".dockerignore").write_text("*.md\ndir/sub\n!dir/sub/deep\n**/y.*\n# c\nf2\n")
    repository = f"same/{about}"
    for tag, builder in (("buildkit", builders.buildkit), ("inlay", builders.inlay)):
        to = f"type=registry,ref={docker_registry.host}/{repository}:{tag},mode=max"
        builder(of_folder(context), "", "--cache-to", to)
    theirs, ours = (records(docker_registry, repository, tag) for tag in ("buildkit", "inlay"))
    assert len(theirs) >= 4
    assert ours == theirs
