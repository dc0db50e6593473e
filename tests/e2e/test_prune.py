"""`inlay du`, `inlay prune`, `inlay image`: what they show and delete, and that no later build breaks."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from processes import wait_until
from web import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gitserver import GitServer, Repository
    from running import Outcome
    from web import Web

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DOCKERFILE = """FROM @BASE@ AS tools
RUN --mount=type=cache,target=/cache head -c 100000 /dev/urandom > /tools && touch /cache/kept

FROM @BASE@
COPY src /src
RUN cat /src/* /tools > /all 2>/dev/null || true
COPY --from=tools /tools /tools
"""


class Shop:
    """A context and the store that it is built in."""

    def __init__(self, folder: Path, base: str, run: Callable[..., Outcome]) -> None:
        self.context, self.store = folder / "context", folder / "store"
        self.inlay = run
        (self.context / "src").mkdir(parents=True)
        self.edit("first")
        (self.context / "Dockerfile").write_text(DOCKERFILE.replace("@BASE@", base))

    def edit(self, text: str) -> None:
        (self.context / "src/f").write_text(text)

    def build(self, *flags: str) -> list[str]:
        """Build; return the steps that ran."""
        meta = self.store.parent / "meta.json"
        done = self.inlay(
            "build", "-q", "--root", str(self.store), "--metadata-file", str(meta), *flags, str(self.context)
        )
        assert done.code == 0, done.err
        steps = json.loads(meta.read_text())["inlay.steps"]
        return sorted(step["name"].partition("]")[0] + "]" for step in steps if step["outcome"] == "ran")

    def items(self) -> list[dict[str, Any]]:
        return list(json.loads(self("du", "--json"))["items"])

    def kinds(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for item in self.items():
            found[item["kind"]] = found.get(item["kind"], 0) + 1
        return found

    def __call__(self, command: str, *flags: str) -> str:
        words = command.split()
        done = self.inlay(*words, "--root", str(self.store), *flags)
        assert done.code == 0, done.err
        return done.out

    def prune(self, *flags: str) -> list[str]:
        """Prune; return the kinds of what was deleted."""
        return [item["kind"] for item in json.loads(self("prune", "-f", "--json", *flags))["items"]]

    def age(self, days: float, *names: str) -> None:
        """Make layers, or those of the steps `names`, look as if they were last used some days ago."""
        then = time.time() - days * 86400
        ids = {item["id"] for item in self.items() if item["description"].startswith(names)}
        for path in (*(self.store / "snapshots").iterdir(), *(self.store / "blobs/sha256").iterdir()):
            if not names or path.name in ids:
                os.utime(path, (then, then))


@pytest.fixture
def shop(tmp_path: Path, base: str, inlay: Callable[..., Outcome]) -> Shop:
    return Shop(tmp_path, base, inlay)


def test_du_counts_everything_once(shop: Shop) -> None:
    shop.build("-t", "app:1")
    items = shop.items()
    assert shop.kinds().keys() == {"image", "layer", "cachemount", "memory", "leftover"}
    leftover = next(
        item for item in items if item["kind"] == "leftover"
    )  # the base's config, kept for next time
    assert leftover["size"] < 2000
    blobs = sum(path.stat().st_size for path in (shop.store / "blobs/sha256").iterdir())
    assert next(item["size"] for item in items if item["kind"] == "image") <= blobs
    names = {item["description"].partition("]")[0] for item in items if item["kind"] == "layer"}
    assert {"[tools 2/2", "[stage-1 2/4", "[stage-1 3/4", "[stage-1 4/4"} <= names
    (mount,) = [item for item in items if item["kind"] == "cachemount"]
    assert mount["description"] == "//cache"
    text = shop("du")
    assert "cache mounts" in text
    assert "docker.io/library/app:1" in shop("du -v")


def test_what_an_image_is_made_of_stays(shop: Shop) -> None:
    shop.build("-t", "app:1")
    deleted = shop.prune()
    assert set(deleted) == {"layer", "cachemount", "leftover"}
    assert shop.kinds().keys() == {"image", "layer", "memory"}
    assert shop.build("-t", "app:1") == []  # every step is still known, and the image's layers are here
    shop.edit("second")
    # The stage went with the prune, as it is in no image; what needs it makes it again.
    assert shop.build("-t", "app:1") == ["[stage-1 2/4]", "[stage-1 3/4]", "[stage-1 4/4]", "[tools 2/2]"]


def test_all_leaves_the_images_alone(shop: Shop) -> None:
    shop.build("-t", "app:1")
    shop.prune("--all")
    assert shop.kinds() == {"image": 1}
    assert os.listdir(shop.store / "snapshots/new") == []
    (shop.context / "Dockerfile").write_text("FROM app:1\nRUN test -e /tools && echo on top > /top\n")
    assert shop.build("-t", "app:2") == ["[2/2]"]


def test_unnamed_builds_go(shop: Shop) -> None:
    shop.build()
    assert shop.kinds()["leftover"] == 3  # manifest and config, and the base's config
    shop.prune()
    assert shop.kinds().keys() == {"memory"}
    assert len(shop.build()) == 4


def test_a_dry_run_deletes_nothing_and_says_what_would_go(shop: Shop) -> None:
    shop.build()
    before = shop.items()
    would = shop.prune("--dry-run")
    assert shop.items() == before
    assert sorted(would) == sorted(shop.prune())
    assert shop("prune -f") == "nothing to delete\n"


def test_any_single_layer_may_go(shop: Shop) -> None:
    shop.build("-t", "app:1")
    layers = [item["id"] for item in shop.items() if item["kind"] == "layer"]
    assert len(layers) >= 5
    copy = shop.store.parent / "copy"
    shutil.copytree(shop.store, copy, symlinks=True)
    for number, layer in enumerate(layers):
        shutil.rmtree(shop.store)
        shutil.copytree(copy, shop.store, symlinks=True)
        assert "layer" in shop.prune("--all", "--filter", f"id={layer}")
        assert layer not in [item["id"] for item in shop.items()]
        shop.build("-t", "app:1")
        shop.edit(f"change {number}")
        shop.build("-t", "app:1")


def test_only_what_was_not_used_for_so_long(shop: Shop) -> None:
    shop.build()
    shop.age(3)
    shop.edit("second")
    shop.build()  # uses the base, and the result of the stage
    assert shop.prune("--filter", "until=96h") == []
    deleted = json.loads(shop("prune -f --json --filter until=48h"))["items"]
    assert {item["description"].partition("]")[0] for item in deleted if item["kind"] == "layer"} == {
        "[stage-1 2/4",
        "[stage-1 3/4",
    }  # and not the last one's, which was made again just the same
    assert shop.build() == []
    shop.edit("first")
    assert shop.build() == ["[stage-1 2/4]", "[stage-1 3/4]", "[stage-1 4/4]"]


def test_what_was_not_used_for_longest_goes_first_until_the_rest_fits(shop: Shop) -> None:
    shop.build()
    shop.age(1)
    shop.age(3, "[stage-1 4/4]")
    size = sum(item["size"] for item in shop.items() if item["kind"] != "image")
    shop.prune("--filter", "type=leftover")
    assert shop.prune("--max-used-space", "1g") == []
    deleted = json.loads(shop("prune -f --json", "--max-used-space", str(size - 20000)))["items"]
    assert [item["description"].partition("]")[0] for item in deleted] == ["[stage-1 4/4"]
    assert shop.build() == ["[stage-1 4/4]"]


def test_one_type_of_things_can_be_deleted(shop: Shop) -> None:
    shop.build()
    for name in ("cachemount", "exec.cachemount"):
        shop.build("--no-cache")
        assert shop.prune("--type", name) == ["cachemount"]
    shop.build("--no-cache")
    assert shop.prune("--filter", "type=memory") == ["memory", "memory"]
    refused = shop.inlay("prune", "--root", str(shop.store), "--type", "toys")
    assert refused.code == 2
    assert "toys" in refused.err
    assert shop.inlay("prune", "--root", str(shop.store), "--filter", "label=x").code == 2
    assert shop.inlay("prune", "--root", str(shop.store), "--max-used-space", "lots").code == 2


def begun(shop: Shop, *command: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "inlay", *command, "--root", str(shop.store)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def running(shop: Shop) -> Iterator[subprocess.Popen[str]]:
    """A build that waits for the file `go` in its cache mount."""
    text = (shop.context / "Dockerfile").read_text()
    waiting = "n=0; while ! test -e /cache/go && test $n -lt 600; do sleep .1; n=$((n+1)); done; head -c"
    (shop.context / "Dockerfile").write_text(text.replace("head -c", waiting))
    build = begun(shop, "build", "-q", str(shop.context))
    wait_until(lambda: list((shop.store / "mounts").glob("*/lock")))
    yield build
    build.terminate()
    build.communicate()


def test_prune_waits_for_builds(shop: Shop, running: subprocess.Popen[str]) -> None:
    prune = begun(shop, "prune", "-f", "--all")
    assert prune.stderr is not None
    assert "waiting for the builds that run to end" in prune.stderr.readline()
    assert prune.poll() is None
    (mount,) = (shop.store / "mounts").glob("*/data")
    (mount / "go").touch()
    assert running.wait(60) == 0
    out, _ = prune.communicate(timeout=60)
    assert prune.returncode == 0
    assert out.startswith("deleted ")


def test_a_build_waits_for_prune_and_says_so(shop: Shop) -> None:
    shop.build()
    lease = os.open(shop.store / "lease", os.O_RDWR)
    fcntl.flock(lease, fcntl.LOCK_EX)
    build = begun(shop, "build", "--progress", "plain", str(shop.context))
    assert build.stderr is not None
    assert "waiting for `inlay prune`" in build.stderr.readline()
    assert build.poll() is None
    os.close(lease)
    build.communicate(timeout=60)
    assert build.returncode == 0


def test_du_does_not_wait(shop: Shop, running: subprocess.Popen[str]) -> None:
    assert shop.kinds()["cachemount"] == 1
    (mount,) = (shop.store / "mounts").glob("*/data")
    (mount / "go").touch()


@pytest.mark.parametrize(("answer", "deletes"), [(b"n\n", False), (b"\n", False), (b"y\n", True)])
def test_it_asks_on_a_terminal(shop: Shop, answer: bytes, deletes: bool) -> None:
    shop.build()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "inlay", "prune", "--root", str(shop.store)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    os.write(ours, answer)
    out, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert b"Go on? [y/N]" in err
    assert out.startswith(b"deleted") == deletes
    assert ("layer" in shop.kinds()) != deletes


def test_what_a_killed_prune_left_is_deleted_by_the_next(shop: Shop) -> None:
    shop.build()
    for name in ("cache.db", "layers.db"):  # names go first
        for suffix in ("", "-wal", "-shm"):
            (shop.store / f"{name}{suffix}").unlink(missing_ok=True)
    assert set(shop.kinds()) == {"cachemount", "memory", "leftover"}
    shop.prune()
    assert set(shop.kinds()) == {"memory"}
    assert len(shop.build()) == 4


def test_images_are_listed_and_deleted_by_name(shop: Shop) -> None:
    shop.build("-t", "app:1", "-t", "registry.example/app:one")
    shop.edit("second")
    shop.build("-t", "app:2")
    names = [image["id"] for image in json.loads(shop("image ls --json"))]
    assert names == ["docker.io/library/app:1", "docker.io/library/app:2", "registry.example/app:one"]
    assert "docker.io/library/app:2" in shop("image ls")
    digests = shop("image ls -q").split()
    assert digests[0] == digests[2] != digests[1]
    assert shop("image rm app:2").startswith("deleted docker.io/library/app:2 (")
    refused = shop.inlay("image", "rm", "--root", str(shop.store), "app:2")
    assert refused.code == 2
    assert "inlay image ls" in refused.err
    assert shop("image ls -q").split() == [digests[0]] * 2
    shop("image rm", digests[0])
    assert shop("image ls -q") == ""
    assert shop.build("-t", "app:2") == []  # its layers stayed, as build cache
    shop("image rm app:2")
    shop.prune("--all")
    assert shop.kinds() == {}
    assert not any((shop.store / "blobs/sha256").iterdir())


def test_an_image_with_the_cache_of_other_stages_beside_it(shop: Shop) -> None:
    shop.build("-t", "app:1", "--cache-to", "type=inline,mode=max")
    shop.prune("--all")
    assert shop.kinds() == {"image": 1}
    shutil.rmtree(shop.store / "snapshots")
    shop.edit("second")
    # What was beside the image is still there.
    ran = shop.build(
        "-t", "app:2", "--cache-from", f"type=oci-layout,src={shop.store},tag=docker.io/library/app:1"
    )
    assert ran == ["[stage-1 2/4]", "[stage-1 3/4]", "[stage-1 4/4]"]
    shop("image rm app:1 app:2")
    shop.prune("--all")
    assert not any((shop.store / "blobs/sha256").iterdir())
    assert json.loads((shop.store / "index.json").read_text())["manifests"] == []


def test_once_a_day_what_was_not_used_for_two_months_goes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.build()
    shop.age(70)
    (mount,) = (shop.store / "mounts").iterdir()
    os.utime(mount / "lock", (1, 1))
    before = shop.kinds()["layer"]
    shop.edit("second")
    shop.build("--no-cache-filter", "tools")  # uses the base, and the cache mount
    assert shop.kinds()["layer"] > before  # it is not yet a day since the store was made
    stamp = shop.store / "pruned"
    os.utime(stamp, (1, 1))
    monkeypatch.setenv("INLAY_KEEP", "0")
    shop.edit("third")
    shop.build()
    assert stamp.stat().st_mtime == 1
    monkeypatch.setenv("INLAY_KEEP", "90d")
    shop.edit("fourth")
    shop.build()
    assert stamp.stat().st_mtime > 1
    assert shop.kinds()["layer"] > before
    os.utime(stamp, (1, 1))
    monkeypatch.delenv("INLAY_KEEP")
    assert shop.build() == []
    assert stamp.stat().st_mtime == 1  # nothing ran, so there is no time to lose
    shop.edit("fifth")
    shop.build()
    old = [item for item in shop.items() if item["used"] < time.time() - 86400]
    assert old == []
    assert shop.kinds()["cachemount"] == 1
    shop.edit("fourth")
    assert shop.build() == []


def test_a_store_that_cannot_be_pruned_fails_no_build(shop: Shop, inlay: Callable[..., Outcome]) -> None:
    (shop.context / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")
    shop.build()
    (shop.store / "index.json").write_text("{")
    os.utime(shop.store / "pruned", (1, 1))
    shop.edit("second")
    tar = f"type=tar,dest={shop.context.parent}/tar"
    done = inlay("build", "--root", str(shop.store), "--progress", "plain", "-o", tar, str(shop.context))
    assert done.code == 0, done.err
    assert f"{shop.store} was not pruned: " in done.err


def test_stray_files_among_blobs_are_no_business_of_a_prune(shop: Shop) -> None:
    shop.build("-t", "app:1")
    stray = shop.store / "blobs/sha256/README"
    stray.write_text("mine")
    assert shop.kinds()["image"] == 1
    assert shop.prune("--all")
    assert stray.read_text() == "mine"


def test_tables_that_were_moved_aside_go_after_three_months(shop: Shop) -> None:
    shop.build()
    broken, recent = shop.store / "cache.db.broken", shop.store / "layers.db.broken-wal"
    for path, days in ((broken, 91), (recent, 89)):
        path.write_text("damaged")
        os.utime(path, (time.time() - days * 86400,) * 2)
    shop.prune()
    assert not broken.exists()
    assert recent.exists()


def test_downloads_and_repositories_are_listed_and_deleted(
    shop: Shop, web: Web, server: GitServer, repository: Repository
) -> None:
    web.pages["/file"] = Page(bytes(5000))
    (shop.context / "Dockerfile").write_text(
        f"FROM scratch\nADD {web.url}/file /file\nADD {server.url}/repo.git /work\n"
    )
    assert len(shop.build()) == 2
    assert {"download", "git"} <= shop.kinds().keys()
    (download,) = [item for item in shop.items() if item["kind"] == "download"]
    assert download["description"] == "file"
    assert download["size"] >= 5000
    assert shop.prune("--type", "download") == ["download"]
    assert shop.prune("--type", "git") == ["git"]
    assert not {"download", "git"} & shop.kinds().keys()
    shop.edit("x")
    shop.build("--no-cache")
    assert "download" in shop.kinds()
    shop.prune()
    assert set(shop.kinds()) == {"memory"}
    assert len(shop.build()) == 2


def test_everything_in_a_store_is_documented(shop: Shop) -> None:
    shop.build("-t", "app:1", "--cache-to", "type=inline,mode=max")
    described = (Path(__file__).parents[2] / "docs/format.md").read_text()
    for name in os.listdir(shop.store):
        stem = name.removesuffix("-wal").removesuffix("-shm")
        assert f"`{stem}" in described, f"docs/format.md does not tell of {name}"
