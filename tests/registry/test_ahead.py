"""Answers that were asked for before anybody needed them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from test_repository import push_image

from inlay.registry import ahead
from inlay.registry.ahead import Ahead, TooLate
from inlay.registry.repository import Repository

if TYPE_CHECKING:
    from inlay.registry.transport import Transport

TAG = ("tag", "host", "path", "1")


def test_an_answer_is_handed_out_once() -> None:
    answers, found = Ahead(), iter("abc")
    assert answers.ask(TAG, lambda: next(found)) == "a"
    assert answers.answer(TAG, lambda: next(found)) == "a"
    assert answers.answer(TAG, lambda: next(found)) == "b"


def test_an_answer_is_waited_for_rather_than_asked_for_twice() -> None:
    answers, asked, go_on = Ahead(), threading.Event(), threading.Event()

    def find() -> str:
        asked.set()
        go_on.wait(10)
        return "ahead"

    thread = threading.Thread(target=lambda: answers.ask(TAG, find))
    thread.start()
    asked.wait(10)
    threading.Timer(0.05, go_on.set).start()
    assert answers.answer(TAG, lambda: "now") == "ahead"
    thread.join()


def test_what_failed_or_is_old_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Ahead()
    with pytest.raises(ZeroDivisionError):
        answers.ask(TAG, lambda: 1 // 0)
    assert answers.answer(TAG, lambda: 5) == 5
    answers = Ahead()
    answers.ask(TAG, lambda: 6)
    monkeypatch.setattr(ahead, "NEW_S", 0.0)
    assert answers.answer(TAG, lambda: 7) == 7


def test_nothing_is_asked_ahead_that_was_asked_for_already() -> None:
    answers = Ahead()
    assert answers.answer(TAG, lambda: 1) == 1
    with pytest.raises(TooLate):
        answers.ask(TAG, lambda: 2)


def test_a_repository_answers_from_what_was_asked_ahead(host: str, transport: Transport) -> None:
    repository = Repository(host, f"test/{uuid4().hex}", transport)
    pushed = push_image(repository, "v1", b"layer")
    early = repository.ahead()
    manifest = early.fetch_manifest("v1")
    early.look_up("v1")
    other = push_image(repository, "v1", b"other layer")
    assert repository.fetch_manifest("v1") == manifest
    assert repository.has_manifest(pushed, "v1")
    assert repository.has_manifest(other, "v1")  # asked anew


def test_what_a_tag_means_is_noted_without_asking(host: str, transport: Transport) -> None:
    repository = Repository(host, f"test/{uuid4().hex}", transport)
    pushed = push_image(repository, "v1", b"layer")
    repository.ahead().note("v1", "sha256:" + "0" * 64)
    assert not repository.has_manifest(pushed, "v1")
    assert repository.has_manifest(pushed, "v1")
