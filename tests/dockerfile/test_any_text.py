"""Whatever a Dockerfile holds: it converts, or a `DockerfileError` says why not, and soon."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from pathlib import Path

import pytest
from conversions import AMD64, FakeImages
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.dockerfile.frontend import convert
from inlay.dockerfile.options import ConvertOptions
from inlay.errors import DockerfileError

FEATURES = Path(__file__).parents[1] / "vectors/frontend/feature.jsonl.gz"
DOCKERFILES = [
    record["dockerfile"].encode()
    for record in map(json.loads, gzip.decompress(FEATURES.read_bytes()).splitlines())
    if "dockerfile" in record
]
PIECES = [
    b"FROM alpine\n", b"FROM $A AS b\n", b"ARG A=${B:-", b"}", b"RUN --mount=type=", b"COPY --from=", b"ONBUILD ",
    b"<<EOF", b"EOF\n", b"\\\n", b"\n", b'"', b"'", b"$", b"${", b"=", b",", b"/", b"..", b"--", b"[", b"]", b"#",
    b"\xe9", b"\x00", b"\xf0\x9f\x98\x80", b"9" * 25, b"ADD https://h/a.git?", b"EXPOSE ", b"HEALTHCHECK --interval=",
    b"# escape=`\n", b"WORKDIR C:\\", b"VOLUME [", b"ENV ", b" ", b"scratch", b"a:b@sha256:",
]  # fmt: skip


def convert_or_say_why(text: bytes, **options: str) -> None:
    named = ConvertOptions.parse({name.replace("_", ":"): value for name, value in options.items()}, AMD64)
    with contextlib.suppress(DockerfileError):
        convert(text, named, FakeImages())


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=40).map(b"".join))
def test_any_text_converts_or_says_why_not(text: bytes) -> None:
    convert_or_say_why(text)
    convert_or_say_why(b"FROM alpine\n" + text, platform="windows/amd64")


@given(st.sampled_from(DOCKERFILES), st.data())
@settings(max_examples=200)
def test_any_change_of_a_dockerfile_converts_or_says_why_not(text: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 8)))
    convert_or_say_why(text[:start] + data.draw(st.sampled_from(PIECES)) + text[end:])


MANY = 10_000
LARGE = {
    "runs": b"FROM alpine\n" + b"RUN x\n" * MANY,
    "variables": b"FROM alpine\n" + b"".join(b"ENV A%d=$A%d\n" % (i + 1, i) for i in range(MANY)),
    "arguments": b"".join(b"ARG A%d=$A%d\n" % (i + 1, i) for i in range(MANY)) + b"FROM alpine\n",
    "stages": b"FROM alpine AS a0\n" + b"".join(b"FROM a%d AS a%d\n" % (i, i + 1) for i in range(MANY)),
    "copies": b"FROM alpine AS a0\n"
    + b"".join(b"FROM alpine AS a%d\nCOPY --from=a%d x x\n" % (i + 1, i) for i in range(MANY // 4)),
    "triggers": b"FROM alpine AS a\n" + b"ONBUILD RUN x\n" * MANY + b"FROM a\nRUN y\n",
    "undefined": b"FROM alpine\n" + b"".join(b"ENV A%d=1 B=$C%d\n" % (i, i) for i in range(MANY // 4)),
    "sources": b"FROM alpine\nCOPY " + b"a " * (3 * MANY) + b"/x/\n",
    "mounts": b"FROM alpine\nRUN " + b"".join(b"--mount=target=/a%d " % i for i in range(MANY // 5)) + b"x\n",
    "comments": b"# a\n" * (4 * MANY) + b"FROM alpine\n",
    "a long line": b"FROM alpine\nRUN " + b"a" * 10_000_000,
    "zeros": b"\0" * 1_000_000,
    "dollars": b"FROM alpine\nENV A=" + b"$" * 60_000,
    "nesting": b"FROM alpine\nENV A=" + b"${A:-" * 6000 + b"}" * 6000,
    "growth": b"FROM alpine\nENV A=xxxxxxxxxxxxxxxx\n" + b"ENV A=$A$A\n" * 64,
    "patterns": b"FROM alpine\nENV A=" + b"a" * 20_000 + b"\nENV B=${A//" + b"*a" * 200 + b"b/c}\n",
    "a cycle": b"".join(
        b"FROM alpine AS a%d\nCOPY --from=a%d x x\n" % (i, (i + 1) % 2500) for i in range(2500)
    ),
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_large_dockerfile_takes_seconds_at_most(text: bytes) -> None:
    start = time.process_time()
    convert_or_say_why(text)
    assert time.process_time() - start < 5
