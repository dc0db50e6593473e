"""llb.difference: what makes two steps different, in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.llb.difference import differences, fields_of, kind_of
from inlay.llb.keys import pre_image
from inlay.llb.ops import (
    EMPTY,
    CacheOption,
    Copy,
    ExecOp,
    FileAction,
    FileOp,
    HostIP,
    MakeDirectory,
    MakeFile,
    MergeOp,
    Meta,
    Mount,
    Owner,
    SecretEnv,
    Ulimit,
    User,
)
from inlay.platform import Platform

LINUX = Platform("linux", "amd64")
META = Meta(args=("/bin/sh", "-c", "make"), env=("PATH=/bin", "A=1"), cwd="/")


def changed(before: ExecOp | FileOp, after: ExecOp | FileOp) -> list[tuple[str, str, str]]:
    return differences(fields_of(pre_image(before, LINUX, 2)), fields_of(pre_image(after, LINUX, 2)))


def run(**fields: object) -> ExecOp:
    return ExecOp(META._replace(**fields), (Mount(dest="/"),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"args": ("/bin/sh", "-c", "make all")}, ("command", "make", "make all")),
        ({"args": ("/bin/bash", "-ec", "make")}, ("shell", "/bin/sh -c", "/bin/bash -ec")),
        ({"env": ("PATH=/bin", "A=2")}, ("variable A", "1", "2")),
        ({"env": ("PATH=/bin", "A=")}, ("variable A", "1", '""')),
        ({"env": ("PATH=/bin",)}, ("variable A", "1", "")),
        ({"env": ("PATH=/bin", "A=1", "B=x=y")}, ("variable B", "", "x=y")),
        ({"env": ("A=1", "PATH=/bin")}, ("order of variables", "PATH A", "A PATH")),
        ({"cwd": "/src"}, ("working directory", "/", "/src")),
        ({"user": "nobody"}, ("user", "", "nobody")),
        ({"extra_hosts": (HostIP("db", "10.0.0.1"),)}, ("--add-host db", "", "given")),
        ({"ulimits": (Ulimit("nofile", 10, 20),)}, ("--ulimit nofile", "", "10:20")),
    ],
)
def test_what_differs_of_a_process_is_named(after: dict[str, object], expected: tuple[str, str, str]) -> None:
    assert changed(run(), run(**after)) == [expected]


def test_arguments_without_a_shell() -> None:
    before, after = run(args=("/bin/tool", "a", "b")), run(args=("/bin/tool", "a", "c", "d"))
    assert changed(before, after) == [("argument 2", "b", "c"), ("argument 3", "", "d")]


def test_surroundings_of_a_process() -> None:
    plain = run()
    assert changed(plain, plain._replace(network=2)) == [("network", "sandbox", "none")]
    assert changed(plain, plain._replace(security=1)) == [("security", "sandbox", "insecure")]
    secret = plain._replace(secret_env=(SecretEnv("token", "TOKEN"),))
    assert changed(plain, secret) == [("secret variable TOKEN", "", "token")]
    mounts = (Mount(dest="/"), Mount(EMPTY, dest="/c", output=EMPTY, type=3, cache=CacheOption("//c")))
    (found,) = changed(plain, plain._replace(mounts=mounts))
    assert found[:2] == ("mount /c", "")


def test_another_platform_is_a_difference() -> None:
    arm = fields_of(pre_image(run(), Platform("linux", "arm", "v7"), 1))
    assert differences(fields_of(pre_image(run(), LINUX, 1)), arm) == [
        ("platform", "linux/amd64", "linux/arm/v7")
    ]


def copy(**fields: object) -> FileOp:
    action = Copy(src="a", dest="/a", mode=-1, timestamp=-1)._replace(**fields)  # type: ignore[arg-type]
    return FileOp((FileAction(0, 1, 0, action),))


def test_what_differs_of_a_copy_is_named() -> None:
    assert changed(copy(), copy(dest="/b")) == [("destination", "/a", "/b")]
    assert changed(copy(), copy(mode=0o640)) == [("mode", "", "0640")]
    assert changed(copy(), copy(owner=Owner(User(id=5), User(id=6)))) == [("owner", "", "5:6")]
    assert changed(copy(), copy(owner=Owner(User(name="app")))) == [("owner", "", "app:0")]
    before = fields_of(pre_image(copy(), LINUX, 2), ["/one/a"])
    assert differences(before, fields_of(pre_image(copy(), LINUX, 2), ["/two/a"])) == [
        ("source", "/one/a", "/two/a")
    ]


def test_the_line_that_changed_of_a_file() -> None:
    def made(text: str) -> FileOp:
        return FileOp((FileAction(0, EMPTY, 0, MakeFile("/f", 0o644, text.encode(), timestamp=-1)),))

    assert changed(made("a\nb\nc\n"), made("a\nB\nc\nd\n")) == [
        ("content, line 2", "b", "B"),
        ("content, line 4", "", "d"),
    ]


def test_one_of_several_actions() -> None:
    def both(path: str) -> FileOp:
        first = FileAction(0, EMPTY, EMPTY, MakeDirectory("/a", 0o755))
        return FileOp((first, FileAction(3, EMPTY, 0, MakeDirectory(path, 0o755))))

    assert changed(both("/b"), both("/c")) == [("path (2 of 2)", "/b", "/c")]


def test_a_pre_image_says_what_kind_of_op_it_is() -> None:
    assert kind_of(pre_image(run(), LINUX, 1)) == "buildkit.exec.v0"
    merge = pre_image(MergeOp(()), LINUX, 0)
    assert (kind_of(merge), fields_of(merge)) == ("buildkit.merge.v0", {})


@given(st.text(), st.text())
def test_equal_fields_make_no_difference_and_others_do(a: str, b: str) -> None:
    assert differences({"x": a}, {"x": a}) == []
    assert bool(differences({"x": a}, {"x": b})) == (a != b)
