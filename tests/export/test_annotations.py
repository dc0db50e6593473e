"""export.annotations: buildx's notation, and what an image cannot have."""

from __future__ import annotations

import pytest

from inlay.errors import UsageError
from inlay.export.annotations import at_level, check_annotations, parse_annotations
from inlay.platform import Platform

ARM64, AMD64 = Platform("linux", "arm64"), Platform("linux", "amd64")


def test_each_level_and_platform_gets_its_own() -> None:
    found = parse_annotations(
        [
            ("org.example.a", "1"),
            ("index,manifest-descriptor:b", "2"),
            ("manifest[linux/arm64/v8]:c", "3"),
            ("manifest:a:b", "4"),
        ]
    )
    assert at_level(found, "manifest", AMD64) == {"org.example.a": "1", "a:b": "4"}
    assert at_level(found, "manifest", ARM64) == {"org.example.a": "1", "c": "3", "a:b": "4"}
    assert at_level(found, "index") == {"b": "2"}
    assert at_level(found, "manifest-descriptor", ARM64) == {"b": "2"}
    assert at_level(found, "index-descriptor") == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("indx:a", "'indx' must be one of index, index-descriptor, manifest, manifest-descriptor"),
        ("index:", "the annotation has no name"),
        ("index[linux/amd64]:a", "an index has no platform"),
        ("manifest[]:a", "'manifest[]' must be one of"),
    ],
)
def test_what_is_no_annotation_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_annotations([(name, "x")])
    assert said in str(caught.value)


def test_what_an_image_cannot_have_is_refused() -> None:
    check_annotations([("index:a", "1")], [["linux/amd64", "linux/arm64"][0], "linux/arm64"], docker=False)
    for name, platforms, docker, said in (
        ("index:a", [], False, "an image of one platform has no index"),
        ("manifest[linux/s390x]:a", ["linux/amd64"], False, "linux/s390x is not built"),
        ("manifest-descriptor:a", ["linux/amd64"], True, "docker's media types"),
    ):
        with pytest.raises(UsageError, match=said):
            check_annotations([(name, "1")], platforms, docker=docker)
