"""A registry whose blobs are not what they should be: told with the step's line, the repository and the digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from inlay.layout import LayoutFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningRegistry

pytestmark = [pytest.mark.e2e, pytest.mark.root]


class Damaged:
    """An image in a registry, and the file in which the registry keeps one of its blobs."""

    def __init__(self, name: str, digest: str, folder: Path) -> None:
        self.name = name
        self.digest = digest
        hexdigest = digest.partition(":")[2]
        self.file = folder / f"data/docker/registry/v2/blobs/sha256/{hexdigest[:2]}/{hexdigest}/data"


@pytest.fixture(params=["layer", "config"])
def damaged(
    request: pytest.FixtureRequest,
    inlay: Callable[..., Any],
    docker_registry: RunningRegistry,
    base: str,
    tmp_path: Path,
) -> Damaged:
    """An image of one layer of its own on the base, of which `request.param` is to be damaged."""
    context = tmp_path / "damaged"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY file /\n")
    (context / "file").write_bytes(uuid4().bytes * 1000)
    name = f"{docker_registry.host}/damaged/{uuid4().hex}"
    layout = tmp_path / "layout"
    done = inlay(
        *("build", "--root", str(tmp_path / "first"), "-t", f"{name}:1", str(context)),
        *("-o", "type=image,push=true", "-o", f"type=oci,dest={layout},tar=false"),
    )
    assert done.code == 0, done.err
    manifest = LayoutFolder(str(layout)).fetch_manifest("1")
    blob = manifest.layers[-1] if request.param == "layer" else manifest.config  # type: ignore[union-attr]
    return Damaged(name, str(blob.digest), docker_registry.folder)


def build(inlay: Callable[..., Any], image: str, tmp_path: Path, *arguments: str) -> Any:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {image}\nENV A=b\nRUN true\n")
    done = inlay("build", "-q", "--root", str(tmp_path / "s"), "-t", "x", *arguments, str(context))
    assert "Traceback" not in done.err
    return done


def place(damaged: Damaged, request: pytest.FixtureRequest) -> str:
    """How the sentence begins: with the step that wanted the layer, or the FROM that wanted the config."""
    is_layer = request.node.callspec.params["damaged"] == "layer"
    return "Dockerfile:3: [2/2] RUN true: " if is_layer else f"Dockerfile:1: {damaged.name}:1: "


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_what_is_wrong_with_it_is_told_and_nothing_is_kept(
    inlay: Callable[..., Any], damaged: Damaged, request: pytest.FixtureRequest, tmp_path: Path, how: str
) -> None:
    whole = damaged.file.read_bytes()
    if how == "changed":
        damaged.file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    elif how == "cut":
        damaged.file.write_bytes(whole[:100])
    else:
        damaged.file.unlink()
    done = build(inlay, f"{damaged.name}:1", tmp_path)
    said = {
        "changed": "has other content: its digest is sha256:",
        "cut": f"sends bytes 0 to 100, not 0 to {len(whole)}",
        "gone": "does not have it",
    }
    last = done.err.splitlines()[-1]
    assert done.code == 1
    assert last.startswith(f"inlay: {place(damaged, request)}")
    assert said[how] in last
    assert last.count(damaged.digest) == 1
    assert damaged.name in last
    assert last.count(f"{damaged.name}:1") <= 1
    assert not (tmp_path / "s/index.json").exists()
    assert not (tmp_path / "s/blobs/sha256" / damaged.digest.partition(":")[2]).exists()
    damaged.file.write_bytes(whole)
    (tmp_path / "context/Dockerfile").rename(tmp_path / "Dockerfile")
    again = inlay(
        *("build", "-q", "--root", str(tmp_path / "s"), "-t", "x", "-f", str(tmp_path / "Dockerfile")),
        str(tmp_path / "context"),
    )
    assert again.code == 0, again.err
