"""While a step's process runs, uploads are opened for the layers that it and later steps will make."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from fake_registry import answer, hang

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fake_registry import FakeRegistry
    from running import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.root]


@pytest.fixture
def build(
    inlay: Callable[..., Outcome], fake: FakeRegistry, base: str, tmp_path: Path
) -> Callable[..., Outcome]:
    """Builds from the base image and pushes; `again` does so from the store."""

    def build(instructions: str, *more: str) -> Outcome:
        context = tmp_path / "context"
        context.mkdir(exist_ok=True)
        (context / "a.txt").write_text("a")
        (context / "Dockerfile").write_text(f"FROM {base}\n{instructions}")
        name = f"{fake.host}/app:1"
        return inlay("build", "--root", str(tmp_path / "root"), "-t", name, "--push", *more, str(context))

    return build


def uploads(fake: FakeRegistry) -> list[str]:
    """What was done about uploads, in order: POST, PUT or DELETE. What asks for a mount is not counted."""
    return [line.split()[0] for line in fake.seen() if "/uploads/" in line and "mount=" not in line]


def test_they_are_open_before_there_is_anything_to_send(
    build: Callable[..., Outcome], fake: FakeRegistry
) -> None:
    done = build("RUN sleep 0.5 && echo b > /b\nCOPY a.txt /\n")
    assert done.code == 0, done.err
    assert uploads(fake)[:3] == ["POST"] * 3  # for two layers and the config
    assert (
        uploads(fake)[3:].count("PUT") == 4
    )  # the base's layer comes from elsewhere, and was not counted on


def test_what_was_cached_is_not_counted(build: Callable[..., Outcome], fake: FakeRegistry) -> None:
    build("RUN echo b > /b\nCOPY a.txt /\n")
    before = len(uploads(fake))
    done = build("RUN echo b > /b\nCOPY a.txt /\nRUN sleep 0.5 && echo c > /c\n")
    assert done.code == 0, done.err
    assert uploads(fake)[before:] == ["POST", "POST", "PUT", "PUT"]


def test_those_that_nothing_comes_for_are_given_up(build: Callable[..., Outcome], fake: FakeRegistry) -> None:
    # The two COPYs make layers of the same bytes: the second is there already.
    done = build("RUN sleep 0.5 && echo b > /b\nCOPY a.txt /\nCOPY a.txt /\n")
    assert done.code == 0, done.err
    assert uploads(fake).count("POST") == uploads(fake).count("PUT") + uploads(fake).count("DELETE")


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_registry_that_opens_none_is_asked_again_when_it_matters(
    status: int, build: Callable[..., Outcome], fake: FakeRegistry
) -> None:
    fake.fault("POST", "/uploads/", answer(status), times=3)
    done = build("RUN sleep 0.5 && echo b > /b\nCOPY a.txt /\n")
    assert done.code == 0, done.err
    assert "app:1" in fake.manifests


def test_a_step_that_fails_is_told_as_ever(build: Callable[..., Outcome], fake: FakeRegistry) -> None:
    done = build("RUN sleep 0.5 && exit 3\nCOPY a.txt /\n")
    assert done.code == 1
    assert "exit code: 3" in done.err
    assert "PUT" not in uploads(fake)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_nobody_waits_for_a_registry_that_does_not_answer(
    method: str, build: Callable[..., Outcome], fake: FakeRegistry
) -> None:
    released = threading.Event()
    fake.fault(method, "/uploads/", hang(released), times=4)  # as many as are opened ahead
    began = time.monotonic()
    try:
        done = build("RUN sleep 0.5 && echo b > /b\nCOPY a.txt /\nCOPY a.txt /\n")
        took_s = time.monotonic() - began
    finally:
        released.set()
    assert done.code == 0, done.err
    assert "app:1" in fake.manifests
    assert took_s < 10


def test_a_registry_that_asks_to_come_back_later_is_not_asked_for_them_again(
    build: Callable[..., Outcome], fake: FakeRegistry
) -> None:
    fake.fault("POST", "/uploads/", answer(429, Retry_After="30"), times=3)
    began = time.monotonic()
    done = build("RUN sleep 0.5 && echo b > /b\nCOPY a.txt /\n")
    assert done.code == 0, done.err
    assert time.monotonic() - began < 10


def test_a_repository_that_gets_two_tags_is_asked_for_each_layer_once(
    build: Callable[..., Outcome], fake: FakeRegistry
) -> None:
    done = build("RUN sleep 0.5 && echo b > /b\nCOPY a.txt /\n", "-t", f"{fake.host}/app:2")
    assert done.code == 0, done.err
    assert {"app:1", "app:2"} <= fake.manifests.keys()
    assert sorted(uploads(fake)) == ["POST"] * 4 + ["PUT"] * 4  # the base's layer is one of them
