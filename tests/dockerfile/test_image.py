"""Image configs: read in any case, written as Go writes the struct."""

from __future__ import annotations

import json

import pytest

from inlay.dockerfile.image import Image
from inlay.platform import Platform


def test_what_go_knows_is_kept_and_the_rest_is_lost() -> None:
    config = {
        "CONFIG": {"env": ["A=<b>"], "Labels": {"b": "2", "a": "1"}, "Healthcheck": {}, "Future": 1},
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "history": [{"created": "2024-01-02T03:04:05.120+00:00", "created_by": "x", "empty_layer": False}],
        "rootfs": {"type": "layers", "diff_ids": []},
        "container": "gone",
    }
    assert Image.parse(json.dumps(config).encode()).to_json() == (
        b'{"architecture":"arm64","os":"linux","variant":"v8","rootfs":{"type":"layers","diff_ids":[]},'
        b'"history":[{"created":"2024-01-02T03:04:05.12Z","created_by":"x"}],'
        b'"config":{"Env":["A=\\u003cb\\u003e"],"Labels":{"a":"1","b":"2"},"Healthcheck":{}}}'
    )


@pytest.mark.parametrize(
    "raw", [b"[]", b'{"config": 1}', b'{"config": {"Env": "x"}}', b'{"history": [1]}', b'{"os": true}']
)
def test_json_of_another_shape_is_no_config(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^json: cannot unmarshal "):
        Image.parse(raw)


@pytest.mark.parametrize("raw", [b"", b"[", b"[" * 100_000])
def test_what_is_no_json_is_no_config(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"line 1|^exceeded max depth$"):
        Image.parse(raw)


def test_a_variable_is_replaced_where_it_first_stands() -> None:
    image = Image(Platform("linux", "amd64"))
    image.env = ["A=1", "B=1", "A=2"]
    image.set_env("A", "3")
    image.set_env("C", "")
    image.set_env("C", "4")
    assert image.env == ["A=3", "B=1", "A=2", "C=4"]


def test_a_copy_changes_alone() -> None:
    image = Image.empty(Platform("linux", "amd64"))
    copy = image.copy()
    copy.set_env("A", "1")
    copy.labels["a"] = "1"
    copy.add_history("x", layer=True, created="")
    assert image.to_json() == Image.empty(Platform("linux", "amd64")).to_json()
    assert copy.has_layers
    assert not image.has_layers
