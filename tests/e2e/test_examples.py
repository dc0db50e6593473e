"""The examples, all the way: built, pushed, pulled by skopeo, unpacked by umoci, run, and compared file by file."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tree_entries import Entry, tree_in_tar, tree_on_disk

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RunningRegistry

pytestmark = [pytest.mark.e2e, pytest.mark.root]

EXAMPLES = Path(__file__).parents[2] / "examples"
IN_UNIFIED_CGROUPS = """
[ ! -d /sys/fs/cgroup/unified ] || mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup
exec "$@"
"""
"""Runtimes expect one cgroup tree; on hosts with both kinds the unified one lies a folder deeper."""


class Image(NamedTuple):
    """An image as other tools see it: `bundle` is what umoci unpacked; `config` is the image's."""

    bundle: Path
    config: dict[str, Any]

    @property
    def rootfs(self) -> Path:
        return self.bundle / "rootfs"


def pull(reference: str, folder: Path) -> Image:
    """Fetch an image with skopeo and unpack it with umoci into `folder`, which it makes."""
    for tool in ("skopeo", "umoci"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    layout = folder / "layout"
    layout.mkdir(parents=True)
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}"]
    subprocess.run([*copy, f"oci:{layout}:x"], check=True)
    command = ["umoci", "unpack", "--image", f"{layout}:x", str(folder / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    inspect = ["skopeo", "inspect", "--config", f"oci:{layout}:x"]
    shown = subprocess.run(inspect, check=True, capture_output=True).stdout
    return Image(folder / "bundle", json.loads(shown))


def run_image(image: Image, script: str) -> str:
    """What `script` prints in a container of `image`; the image's own command is in its arguments."""
    runtime = shutil.which("runc") or shutil.which("crun")
    if runtime is None:
        pytest.skip("neither runc nor crun is installed")
    described = image.bundle / "config.json"
    spec = json.loads(described.read_text())
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["/bin/sh", "-c", script, "sh", *spec["process"]["args"]]
    spec["linux"]["resources"] = {}
    described.write_text(json.dumps(spec))
    state, name = image.bundle.parent / "runtime", f"inlay-test-{os.getpid()}"
    run = [runtime, "--root", str(state), "run", "--bundle", str(image.bundle), name]
    command = ["unshare", "--mount", "sh", "-c", IN_UNIFIED_CGROUPS, "sh", *run]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def example(name: str, folder: Path) -> Path:
    """A copy of an example, so that what its scripts make does not land in the source tree."""
    return Path(shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("rootfs.tar")))


def digest_of(err: str) -> str:
    """The image's digest, from the last line that a build printed."""
    found = re.match(r"sha256:[0-9a-f]{64}", err.splitlines()[-1])
    assert found, err
    return found[0]


def build_and_push(inlay: Callable[..., Any], root: Path, reference: str, *arguments: str) -> Any:
    done = inlay(
        *("build", "--progress", "plain", "--root", str(root)),
        *("-t", reference, "--push", "--cache-to", "type=inline", *arguments),
    )
    assert done.code == 0, done.err
    return done


def without_time(tree: dict[str, Entry]) -> dict[str, Entry]:
    return {name: entry._replace(mtime=0) for name, entry in tree.items()}


@pytest.fixture
def busybox(inlay: Callable[..., Any], docker_registry: RunningRegistry, tmp_path: Path) -> tuple[str, Path]:
    """The reference of the built base image, and the archive that it was made from."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed (Debian package busybox-static)")
    folder = example("busybox", tmp_path)
    subprocess.run([folder / "make-rootfs"], check=True)
    reference = f"{docker_registry.host}/examples/busybox:1"
    build_and_push(inlay, tmp_path / "base-store", reference, str(folder))
    return reference, folder / "rootfs.tar"


def test_the_busybox_base_holds_what_its_archive_holds(busybox: tuple[str, Path], tmp_path: Path) -> None:
    reference, archive = busybox
    image = pull(reference, tmp_path / "pulled")
    assert tree_on_disk(image.rootfs) == tree_in_tar(archive)
    assert image.config["config"]["Cmd"] == ["/bin/sh"]
    assert (
        run_image(image, "echo $PATH; ls /home")
        == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    )


def test_the_service_serves_the_pages_that_its_first_stage_made(
    inlay: Callable[..., Any], busybox: tuple[str, Path], docker_registry: RunningRegistry, tmp_path: Path
) -> None:
    base, archive = busybox
    context = example("service", tmp_path)
    reference = f"{docker_registry.host}/examples/service:1"
    build_and_push(inlay, tmp_path / "store", reference, "--build-arg", f"BASE={base}", str(context))
    image = pull(reference, tmp_path / "pulled")

    pages = tmp_path / "pages"
    subprocess.run(["sh", "build.sh", "site", pages, "built by inlay"], cwd=context, check=True)
    page = (pages / "index.html").read_bytes()
    tree, before = without_time(tree_on_disk(image.rootfs)), without_time(tree_in_tar(archive))
    assert {name for name in before if tree.get(name) != before[name]} == {"etc/passwd", "etc/group"}
    added = {name: tree[name] for name in tree.keys() - before.keys()}
    assert {name: (entry.kind, entry.mode, entry.owner) for name, entry in added.items()} == {
        # What a runtime mounts its own file systems on stays, as it does with BuildKit.
        "dev": ("d", 0o755, (0, 0)),
        "proc": ("d", 0o755, (0, 0)),
        "sys": ("d", 0o755, (0, 0)),
        "srv": ("d", 0o755, (0, 0)),
        "srv/www": ("d", 0o755, (1000, 1000)),
        "srv/www/index.html": ("-", 0o644, (1000, 1000)),
        "srv/www/index.html.gz": ("-", 0o644, (1000, 1000)),
    }
    assert (image.rootfs / "srv/www/index.html").read_bytes() == page
    assert gzip.decompress((image.rootfs / "srv/www/index.html.gz").read_bytes()) == page
    assert (image.rootfs / "etc/passwd").read_text().endswith("web:x:1000:1000:web:/srv/www:/bin/false\n")
    assert (image.rootfs / "etc/group").read_text().endswith("web:x:1000:\n")

    config = image.config["config"]
    assert (config["User"], config["WorkingDir"], config["ExposedPorts"]) == (
        "web",
        "/srv/www",
        {"8080/tcp": {}},
    )
    fetch = "wget -qO- http://127.0.0.1:8080/ 2>/dev/null"
    served = run_image(
        image, f'"$@" & n=0; until {fetch}; do n=$((n+1)); [ $n -lt 50 ]; usleep 100000; done; id -u; kill $!'
    )
    assert served.encode() == page + b"1000\n"
