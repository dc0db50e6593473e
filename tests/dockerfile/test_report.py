"""`--call=check`, `outline` and `targets`."""

from __future__ import annotations

import json

import pytest
from conversions import AMD64, FakeImages

from inlay.dockerfile.options import ConvertOptions
from inlay.dockerfile.report import lint, list_targets, outline
from inlay.errors import DockerfileError

OPTIONS = ConvertOptions(AMD64)
DOCKERFILE = b"""\
ARG A=1
ARG UNUSED
ARG B=$A
FROM alpine:$B AS base
# C a thing
ARG C=<5>
RUN --mount=type=secret,id=s,required --mount=type=ssh echo
# app the app
FROM base AS app
ARG A
COPY --from=other x y
FROM alpine AS other
RUN --mount=type=secret,id=elsewhere x
FROM app
"""


def test_an_outline_names_what_the_target_and_its_needs_take() -> None:
    dockerfile = DOCKERFILE.replace(b"COPY --from=other x y\n", b"")
    report = outline(dockerfile, OPTIONS._replace(target="app"), FakeImages())
    assert [(each.name, each.value, each.description) for each in report.arguments] == [
        ("A", "1", ""),
        ("B", "1", ""),
        ("C", "<5>", "a thing"),
    ]
    assert report.to_text() == (
        "TARGET:      app\n"
        "DESCRIPTION: the app\n"
        "\n"
        "BUILD ARG   VALUE   DESCRIPTION\n"
        "A           1       \n"
        "B           1       \n"
        "C           <5>     a thing\n"
        "\n"
        "SECRET   REQUIRED\n"
        "s        true\n"
        "\n"
        "SSH       REQUIRED\n"
        "default   \n"
        "\n"
    )
    fields = json.loads(report.to_json())
    assert fields["secrets"] == [
        {"name": "s", "required": True, "location": {"ranges": [{"start": {"line": 7}, "end": {"line": 7}}]}}
    ]
    assert r"\u003c5\u003e" in report.to_json()


def test_an_outline_of_what_cannot_be_built_is_an_error() -> None:
    with pytest.raises(DockerfileError, match="it needs to be defined before"):
        outline(DOCKERFILE, OPTIONS, FakeImages())


def test_targets_have_a_default() -> None:
    targets = json.loads(list_targets(DOCKERFILE).to_json())["targets"]
    assert [target.get("name") for target in targets] == ["base", "app", "other", None]
    assert [target.get("default", False) for target in targets] == [False, False, False, True]
    assert targets[0]["base"] == "alpine:$B"
    assert targets[1]["description"] == "the app"


def test_lint_goes_through_all_stages_unless_a_target_is_named() -> None:
    dockerfile = b"FROM alpine AS a\nCMD a\nFROM alpine AS b\nCMD b\n"
    assert [
        each.location.first_line for each in lint(dockerfile, OPTIONS, FakeImages()).warnings if each.location
    ] == [
        2,
        4,
    ]
    report = lint(dockerfile, OPTIONS._replace(target="a"), FakeImages())
    assert len(report.warnings) == 1
    assert not report.is_clean


def test_an_error_is_part_of_the_report_with_its_place() -> None:
    report = lint(b"FROM alpine\nRUNN x\n", OPTIONS, FakeImages())
    fields = json.loads(report.to_json())
    assert fields["buildError"]["message"].startswith(
        "dockerfile parse error on line 2: unknown instruction: RUNN"
    )
    assert fields["buildError"]["location"]["ranges"][0]["start"] == {"line": 2}
    assert not report.is_clean


def test_a_clean_dockerfile_has_a_clean_report() -> None:
    report = lint(b"FROM alpine\nRUN x\n", OPTIONS, FakeImages())
    assert report.is_clean
    assert report.to_text() == ""
