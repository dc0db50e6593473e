"""What is said, and with which exit code, when a build is asked for that cannot be: one sentence, no traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from processes import free_port
from running import run_inlay

if TYPE_CHECKING:
    from pathlib import Path

    from running import Outcome

FAILED, USAGE = 1, 2


@pytest.fixture(scope="module")
def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    return free_port()


def build(tmp_path: Path, dockerfile: str, *arguments: str) -> Outcome:
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    (context / "out").symlink_to("/etc")
    done = run_inlay("build", "--root", str(tmp_path / "root"), "-q", *arguments, str(context))
    assert "Traceback" not in done.err
    return done


DOCKERFILES = {
    "unknown-instruction": (
        "FROM scratch\nFROBNICATE x\n",
        "Dockerfile:2: dockerfile parse error on line 2: unknown instruction: FROBNICATE",
    ),
    "near-an-instruction": (
        "FROM scratch\nCOPPY a b\n",
        "Dockerfile:2: dockerfile parse error on line 2: unknown instruction: COPPY; did you mean COPY?",
    ),
    "unknown-stage-index": ("FROM scratch\nCOPY --from=3 a b\n", "Dockerfile:2: invalid stage index 3"),
    "missing-file": (
        "FROM scratch\nCOPY no-file /\n",
        'Dockerfile:2: [1/1] COPY no-file /: "/no-file": not found',
    ),
    "out-by-a-link": (
        "FROM scratch\nCOPY out/passwd /\n",
        'Dockerfile:2: [1/1] COPY out/passwd /: "/out/passwd": not found',
    ),
    "out-by-dots": (
        "FROM scratch\nCOPY ../../etc/passwd /\n",
        'Dockerfile:2: [1/1] COPY ../../etc/passwd /: "/etc/passwd": not found',
    ),
    "empty": ("", "the Dockerfile cannot be empty"),
}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_that_cannot_be_built_is_told_with_its_line(name: str, tmp_path: Path) -> None:
    dockerfile, sentence = DOCKERFILES[name]
    done = build(tmp_path, dockerfile)
    assert done.code == FAILED
    assert done.err.splitlines()[-1] == f"inlay: {sentence}"
    assert (">>> " + dockerfile.splitlines()[-1] in done.err) if dockerfile else True


def test_a_registry_that_is_down_is_named_once(closed_port: int, tmp_path: Path) -> None:
    image = f"127.0.0.1:{closed_port}/app:1"
    done = build(tmp_path, f"FROM {image}\nRUN true\n")
    assert done.code == FAILED
    assert done.err.splitlines()[-1] == (
        f"inlay: Dockerfile:1: {image}: cannot pull the manifest of {image}: 127.0.0.1:{closed_port}: "
        "Connection refused; check the name, the network and the proxies"
    )


def test_a_download_that_fails_is_told_with_its_line(closed_port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port}/file"
    done = build(tmp_path, f"FROM scratch\nADD {url} /\n")
    assert done.code == FAILED
    last = done.err.splitlines()[-1]
    assert last.startswith(f"inlay: Dockerfile:2: [1/1] ADD {url} /: ")
    assert "Connection refused" in last


def test_a_cache_that_cannot_be_had_is_a_warning(closed_port: int, tmp_path: Path) -> None:
    place = f"127.0.0.1:{closed_port}/app:1"
    done = build(tmp_path, "FROM scratch\nCOPY Dockerfile /\n", "--cache-from", place)
    assert done.code == 0, done.err
    assert done.out.startswith("sha256:")


def test_a_cache_that_is_named_twice_is_read_once(closed_port: int, tmp_path: Path) -> None:
    place = f"127.0.0.1:{closed_port}/x:1"
    flags = ("--cache-from", place, "--cache-from", f"type=registry,ref={place}", "--progress=plain")
    done = build(tmp_path, "FROM scratch\nCOPY Dockerfile /\n", *flags)
    assert (done.code, done.err.count(f"WARN: cache {place} is not used")) == (0, 1)


def test_a_misspelt_field_of_a_cache_is_a_warning(tmp_path: Path) -> None:
    place = f"type=local,dest={tmp_path}/cache"
    done = build(
        tmp_path, "FROM scratch\nCOPY Dockerfile /\n", "--cache-to", f"{place},mod=max", "--progress=plain"
    )
    assert done.code == 0
    assert f"WARN: --cache-to {place},mod=max: mod has no effect; did you mean mode?" in done.err


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [("", FAILED, "inlay: "), (",ignore-error=true", 0, "WARN: the cache was not exported: ")],
)
def test_a_cache_cannot_be_written_over_a_file(tmp_path: Path, option: str, code: int, said: str) -> None:
    (tmp_path / "file").touch()
    place = f"type=local,dest={tmp_path}/file{option}"
    done = build(tmp_path, "FROM scratch\nCOPY Dockerfile /\n", "--cache-to", place, "--progress=plain")
    assert done.code == code
    assert f"{said}cannot write {tmp_path}/file: file exists\n" in done.err
    assert "Errno" not in done.err


def test_a_push_to_nobody_fails_and_leaves_no_image(closed_port: int, tmp_path: Path) -> None:
    done = build(
        tmp_path, "FROM scratch\nCOPY Dockerfile /\n", "-t", f"127.0.0.1:{closed_port}/app:1", "--push"
    )
    assert done.code == FAILED
    assert "Connection refused" in done.err.splitlines()[-1]
    assert not (tmp_path / "root/index.json").exists()


WRONG = {
    "no-context": (("/nowhere/at/all",), "the build context /nowhere/at/all does not exist"),
    "file-as-context": (("/etc/passwd",), "the build context /etc/passwd is not a folder"),
    "file-as-root": (
        ("--root", "/etc/passwd", "/tmp"),
        "cannot keep state in /etc/passwd: it is not a folder; choose another folder with --root",
    ),
    "cache-type": (
        ("--cache-to", "type=frob", "/tmp"),
        "--cache-to type=frob: type must be one of inline, registry, local, not 'frob'",
    ),
    "cache-without-ref": (
        ("--cache-to", "type=registry", "/tmp"),
        "--cache-to type=registry: ref=… is missing",
    ),
    "output-type": (
        ("-o", "type=zip,dest=x", "/tmp"),
        (
            "--output type=zip,dest=x: type must be one of "
            "image, registry, oci, docker, local, tar, cacheonly, not 'zip'"
        ),
    ),
    "push-without-name": (("--push", "/tmp"), "nothing to push to: name the image with -t REGISTRY/NAME:TAG"),
    "shm-size": (("--shm-size", "1q", "/tmp"), "--shm-size 1q: not a size such as 64m or 1.5GB"),
    "call": (
        ("--call", "dance", "/tmp"),
        "--call dance: must be build, check, outline or targets",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_told_and_exits_with_2(name: str, tmp_path: Path) -> None:
    arguments, sentence = WRONG[name]
    root = () if "--root" in arguments else ("--root", str(tmp_path / "root"))
    done = run_inlay("build", *root, *arguments)
    assert done.code == USAGE
    assert done.err == f"inlay: {sentence}\n"


CONTEXTS = {
    "no-folder": ("foo=/nowhere", "--build-context foo=/nowhere: there is no such folder"),
    "no-layout": (
        "foo=oci-layout:///nowhere",
        "--build-context foo=oci-layout:///nowhere: there is no such layout",
    ),
    "near-a-scheme": (
        "foo=docker-imge://alpine",
        (
            "--build-context foo=docker-imge://alpine: there is nothing of the kind docker-imge://; "
            "did you mean docker-image://?"
        ),
    ),
    "no-scheme": (
        "foo=magnet://x/y",
        "--build-context foo=magnet://x/y: there is nothing of the kind magnet://",
    ),
    "no-name": (
        "Foo=/tmp",
        (
            "--build-context Foo=/tmp: Foo cannot be the name of a context: "
            "invalid reference format: repository name (library/Foo) must be lowercase"
        ),
    ),
    "no-value": ("foo", "--build-context foo: expected NAME=VALUE"),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_named_context_that_cannot_be_is_wrong_usage(name: str, tmp_path: Path) -> None:
    argument, sentence = CONTEXTS[name]
    done = build(tmp_path, "FROM foo\n", "--build-context", argument)
    assert done.code == USAGE
    assert done.err.splitlines()[-1] == f"inlay: {sentence}"


def test_a_named_context_is_reached_by_its_name_without_what_goes_without_saying(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    named = ("--build-context", f"docker.io/library/foo:latest={tmp_path}/other")
    done = build(tmp_path, "FROM scratch\nCOPY --from=foo file /\n", *named)
    assert done.code == 0, done.err
