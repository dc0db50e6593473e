"""Conversions: what the recorded cases do not show, and what a caller relies on."""

from __future__ import annotations

import json

import pytest
from conversions import AMD64, FakeImages, converted, history

from inlay.dockerfile.contexts import LocalSource
from inlay.dockerfile.frontend import convert
from inlay.dockerfile.linter import Linter
from inlay.dockerfile.options import ConvertOptions
from inlay.errors import DockerfileError, NotFound, UsageError
from inlay.llb.graph import Vertex
from inlay.llb.ops import ExecOp, SourceOp


def test_a_vertex_knows_its_lines_its_name_and_whether_to_run_again() -> None:
    result = converted("FROM alpine AS a\nRUN one \\\n  two\nCOPY x /y\nFROM a\n", no_cache="a").results[0]
    run = next(vertex for vertex in result.definition.vertices if isinstance(vertex.op, ExecOp))
    assert run.name == "[a 2/3] RUN one   two"
    assert run.location is not None
    assert (run.location.first_line, run.location.last_line) == (2, 3)
    assert run.ignore_cache
    assert not result.ignore_cache


def test_local_sources_say_what_to_send() -> None:
    options = ConvertOptions.parse({}, AMD64)._replace(dockerignore=b"*.log\n!keep.log\n")
    result = convert(b"FROM scratch\nCOPY a b/ /\nCOPY --from=alpine c /\n", options, FakeImages()).results[0]
    (context,) = [
        vertex.op
        for vertex in result.definition.vertices
        if isinstance(vertex.op, SourceOp) and vertex.op.scheme == "local"
    ]
    assert LocalSource.of(context) == LocalSource("context", ("a", "b"), ("*.log", "!keep.log"))


def test_images_are_asked_for_together_and_again_only_for_what_onbuild_adds() -> None:
    images = FakeImages(trigger="COPY --from=busybox /a /a")
    converted("FROM onbuild AS a\nFROM debian AS unused\nFROM a\nCOPY --from=golang /x /x\n", images)
    first, second, *_ = images.prefetched
    assert sorted(first) == ["docker.io/library/golang:latest", "docker.io/library/onbuild:latest"]
    assert second == ["docker.io/library/busybox:latest"]
    assert "docker.io/library/debian:latest" not in images.resolved


def test_onbuild_without_end_is_an_error() -> None:
    with pytest.raises(DockerfileError, match="ONBUILD of an image needs an image with the same ONBUILD"):
        converted("FROM onbuild\n", FakeImages(trigger="COPY --from=onbuild /a /a"))


def test_platforms_are_asked_for_all_at_once() -> None:
    images = FakeImages()
    results = converted("FROM alpine\n", images, platform="linux/amd64,linux/arm64").results
    assert [str(result.platform) for result in results] == ["linux/amd64", "linux/arm64"]
    assert len(images.prefetched[0]) == 2


def test_an_image_that_is_missing_fails_at_its_from_with_a_hint() -> None:
    with pytest.raises(DockerfileError) as caught:
        converted("FROM alpine AS build\nFROM bild/missing\n")
    error = caught.value
    assert str(error.location) == "Dockerfile:2"
    assert "not found" in error.message
    assert isinstance(error.__cause__, NotFound)
    assert error.excerpt.splitlines() == [
        "Dockerfile:2",
        "--------------------",
        "   1 |     FROM alpine AS build",
        "   2 | >>> FROM bild/missing",
        "   3 |     ",
        "--------------------",
    ]


def test_a_target_that_does_not_exist_is_told_with_a_near_one() -> None:
    with pytest.raises(DockerfileError, match='target stage "biuld" could not be found') as caught:
        converted("FROM alpine AS build\n", target="biuld")
    assert caught.value.hint == "build"


def test_a_wrong_option_is_no_error_of_the_dockerfile() -> None:
    with pytest.raises(UsageError, match="invalid netmode nowhere"):
        ConvertOptions.parse({"force-network-mode": "nowhere"}, AMD64)


def test_warnings_up_to_an_error_are_kept_by_the_linter() -> None:
    linter = Linter()
    with pytest.raises(DockerfileError):
        convert(b"from alpine\nRUN a\nRUN b\nCMD a b\nBAD\n", ConvertOptions(AMD64), FakeImages(), linter)
    assert linter.warnings == []
    with pytest.raises(DockerfileError):
        convert(
            b"FROM alpine\nCMD a b\nRUN --mount=target=/ x\n", ConvertOptions(AMD64), FakeImages(), linter
        )
    (warning,) = linter.warnings
    assert str(warning).startswith("JSONArgsRecommended: JSON arguments recommended for CMD")
    assert str(warning).endswith("(line 2)")


def test_the_epoch_of_the_context_is_asked_for_and_put_in_history_and_workdir() -> None:
    options = ConvertOptions.parse(
        {"build-arg:SOURCE_DATE_EPOCH": "context", "context": "https://example.com/a.git"}, AMD64
    )
    result = convert(b"FROM scratch\nWORKDIR /w\n", options, FakeImages()).results[0]
    assert result.epoch == 1_600_000_000
    assert json.loads(result.image)["history"][0]["created"] == "2020-09-13T12:26:40Z"


def test_an_epoch_out_of_the_years_is_an_error() -> None:
    with pytest.raises(DockerfileError, match="invalid SOURCE_DATE_EPOCH"):
        converted("FROM scratch\nWORKDIR /w\n", build_arg__SOURCE_DATE_EPOCH=str(1 << 62))


def test_options_are_not_changed() -> None:
    options = ConvertOptions.parse({"build-arg:SOURCE_DATE_EPOCH": ""}, AMD64)
    before = dict(options.build_args)
    convert(b"FROM scratch\nARG SOURCE_DATE_EPOCH\n", options, FakeImages())
    assert options.build_args == before


def test_a_dockerfile_can_be_converted_twice_with_the_same_result() -> None:
    text = "FROM alpine\nARG A=1\nENV B=$A\nCOPY <<EOF /x\n$B\nEOF\nRUN --mount=type=cache,target=/$B x\n"
    first, second = converted(text).results[0], converted(text).results[0]
    assert first.definition.ops == second.definition.ops
    assert first.image == second.image


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("ENV A=b C='d e'", "ENV A=b C=d e"),
        ("RUN a\tb", "RUN /bin/sh -c a\tb # buildkit"),
        ('CMD ["a\\tb"]', 'CMD ["a\\tb"]'),
        ("EXPOSE 80 81/UDP", "EXPOSE [80/tcp 81/udp]"),
        (
            "HEALTHCHECK --interval=90s CMD x",
            "HEALTHCHECK {Test:[CMD-SHELL x] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        ),
        ("WORKDIR a/../b", "WORKDIR /b"),
    ],
)
def test_history_says_what_was_done(text: str, entry: str) -> None:
    assert history(converted(f"FROM alpine\n{text}\n"))[-1] == entry


def test_a_context_that_is_no_image_gives_its_platform_to_the_second_stage_on_it() -> None:
    options = {"context:repo": "https://example.com/r.git", "platform": "linux/arm64", "multi-platform": "1"}
    text = b"FROM alpine AS repo\nFROM repo AS a\nCOPY 1 /1\nFROM a AS b\nCOPY 2 /2\n"
    result = convert(text, ConvertOptions.parse(options, AMD64), FakeImages()).results[0]
    names = [vertex.name for vertex in result.definition.vertices if vertex.name.startswith("[")]
    assert [name for name in names if "COPY" in name] == [
        "[unknown a 1/1] COPY 1 /1",
        "[linux/arm64 b 1/1] COPY 2 /2",
    ]


def test_a_repository_of_github_without_a_protocol_is_fetched_by_https() -> None:
    result = converted("FROM scratch\nCOPY a /a\n", context="github.com/a/b#v1").results[0]
    (source,) = [op for op in (v.op for v in result.definition.vertices) if isinstance(op, SourceOp)]
    assert source.identifier == "git://github.com/a/b#v1"
    assert source.attr("git.fullurl") == "https://github.com/a/b"


def test_sources_are_defined_from_the_last_to_the_first_on_scratch_too() -> None:
    result = converted("FROM scratch\nADD http://e.com/1 http://e.com/2 /\n").results[0]
    sources = [vertex.op for vertex in result.definition.vertices if isinstance(vertex.op, SourceOp)]
    assert [source.identifier for source in sources] == ["http://e.com/2", "http://e.com/1"]


def test_steps_on_an_input_have_its_platform() -> None:
    image = Vertex(SourceOp("docker-image://docker.io/library/alpine:latest"), (), AMD64)
    options = ConvertOptions.parse({"context:given": "input:given", "platform": "linux/arm64"}, AMD64)
    options = options._replace(inputs={"given": image})
    result = convert(b"FROM scratch AS given\nFROM given\nRUN x\n", options, FakeImages()).results[0]
    (run,) = [vertex for vertex in result.definition.vertices if isinstance(vertex.op, ExecOp)]
    assert run.platform == AMD64
