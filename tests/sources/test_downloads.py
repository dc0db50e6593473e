"""Downloads against a real server on loopback: what is asked, kept, refused."""

from __future__ import annotations

import base64
import gzip
import json
import os
import resource
import threading
from typing import TYPE_CHECKING

import pytest

from inlay.digest import Digest
from inlay.errors import SourceError
from inlay.llb.keys import ContentSelector
from inlay.llb.ops import SourceOp
from inlay.registry.dial import Abort
from inlay.registry.transport import Settings, Transport
from inlay.snapshot.native import Native
from inlay.sources import downloads as module
from inlay.sources.downloads import Download, Downloads
from inlay.sources.http import HttpSource, WebFile
from inlay.tasks import run
from inlay.trees.contenthash import content_digest
from inlay.trees.tree import Tree
from web import Asked, Page, Web, versioned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

OLD = "Fri, 01 Mar 2024 10:20:30 GMT"


class Builds:
    """One store, and a build of it after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secrets: dict[str, bytes] = {}
        self.settings: dict[str, object] = {}
        self.transports: list[Transport] = []
        self.snapshotter = Native(f"{root}/snapshots")

    def bring(self, url: str, **attrs: str) -> Download:
        """What a new build gets."""
        return self.build().bring(wanted(url, **attrs), Abort())

    def build(self) -> Downloads:
        fields = {"backoff_s": 0.001, "read_timeout_s": 10, "environment": {}, **self.settings}
        transport = Transport(Settings(**fields), lambda host: None)  # type: ignore[arg-type]
        self.transports.append(transport)
        return Downloads(str(self.root), lambda: self.snapshotter, lambda: transport, self.secrets.get)

    def path(self, found: Download) -> str:
        return self.build().path(found)

    def content(self, found: Download) -> bytes:
        with open(self.path(found), "rb") as file:
            return file.read()


@pytest.fixture
def builds(tmp_path: Path) -> Iterator[Builds]:
    made = Builds(tmp_path)
    yield made
    for transport in made.transports:
        transport.close()


def wanted(url: str, **attrs: str) -> WebFile:
    pairs = {"filename": "file", **attrs}
    return WebFile.of(SourceOp(url, tuple((f"http.{name}", text) for name, text in sorted(pairs.items()))))


def test_a_file_is_kept_with_the_servers_date_and_a_private_mode(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(b"hello", headers={"Last-Modified": OLD})
    found = builds.bring(f"{web.url}/a")
    status = os.stat(builds.path(found))
    assert builds.content(found) == b"hello"
    assert found.digest == Digest.of(b"hello")
    assert (status.st_mode & 0o7777, int(status.st_mtime)) == (0o600, 1709288430)


@pytest.mark.parametrize("room", [0, 1, 348_576, 699_999])
def test_a_disk_that_takes_only_some_of_a_file_keeps_none_of_it(web: Web, builds: Builds, room: int) -> None:
    web.pages["/a"] = Page(bytes(700_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # a write across it is a short one
    try:
        with pytest.raises(SourceError, match=r"cannot keep the download of .*: file too large"):
            builds.bring(f"{web.url}/a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert builds.snapshotter.layers() == []
    assert os.listdir(f"{builds.root}/snapshots/new") == []
    assert builds.bring(f"{web.url}/a").digest == Digest.of(bytes(700_000))


def test_mode_and_owner_are_those_of_the_op(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(b"hello")
    found = builds.bring(f"{web.url}/a", perm="0o750", uid=str(os.getuid()), gid=str(os.getgid()))
    status = os.stat(builds.path(found))
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o750, 0)


def test_what_has_not_changed_is_asked_for_and_not_sent(web: Web, builds: Builds) -> None:
    web.pages["/a"] = versioned(b"hello", '"one"')
    first = builds.bring(f"{web.url}/a")
    again = builds.bring(f"{web.url}/a")
    assert again == first
    assert web.asked[1].headers["if-none-match"] == '"one"'


def test_several_versions_are_asked_about_at_once(web: Web, builds: Builds) -> None:
    web.pages["/a"] = versioned(b"one", '"one"')
    first = builds.bring(f"{web.url}/a")
    web.pages["/a"] = versioned(b"two", '"two"')
    second = builds.bring(f"{web.url}/a")
    assert builds.content(second) == b"two"
    web.pages["/a"] = versioned(b"one", '"one"')
    assert builds.bring(f"{web.url}/a") == first
    assert set(web.asked[2].headers["if-none-match"].split(", ")) == {'"one"', '"two"'}


def test_a_server_that_does_not_know_the_question_need_not_send_the_file_again(
    web: Web, builds: Builds
) -> None:
    web.pages["/a"] = Page(b"hello", headers={"ETag": 'W/"one"'})
    first = builds.bring(f"{web.url}/a")
    web.pages["/a"] = Page(b"x" * 10, headers={"ETag": '"one"', "Content-Length": "1000000"})
    assert builds.bring(f"{web.url}/a") == first


def test_a_304_without_etag_is_about_the_only_version_that_was_asked_about(web: Web, builds: Builds) -> None:
    web.pages["/a"] = versioned(b"hello", '"one"')
    first = builds.bring(f"{web.url}/a")
    web.pages["/a"] = Page(status=304)
    assert builds.bring(f"{web.url}/a") == first


def test_a_304_that_nobody_asked_for_is_an_error(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(status=304)
    with pytest.raises(SourceError, match="has not changed, but since when"):
        builds.bring(f"{web.url}/a")


@pytest.mark.parametrize(
    ("date", "asks"), [("Fri, 01 Mar 2024 10:22:00 GMT", True), (OLD, False), ("", False)]
)
def test_a_date_is_believed_only_where_the_file_has_been_at_rest(
    web: Web, builds: Builds, date: str, asks: bool
) -> None:
    dated = {"Last-Modified": OLD} | ({"Date": date} if date else {})
    web.pages["/a"] = Page(b"hello", headers=dated)
    first = builds.bring(f"{web.url}/a")
    web.pages["/a"] = lambda asked, _: Page(
        b"hello", 304 if "if-modified-since" in asked.headers else 200, dated if asks else {}
    )
    again = builds.bring(f"{web.url}/a")
    assert (web.asked[1].headers.get("if-modified-since") == OLD) is asks
    assert (again == first) is asks


@pytest.mark.parametrize("says", [True, False], ids=["and says its date", "and says nothing of it"])
def test_a_file_that_was_put_back_is_not_taken_for_the_newer_one(
    web: Web, builds: Builds, says: bool
) -> None:
    """Python's and Apache's servers answer 304 for whatever is not newer than the date that they are asked of."""
    web.pages["/a"] = Page(b"two", headers={"Last-Modified": OLD, "Date": "Fri, 01 Mar 2024 10:22:00 GMT"})
    builds.bring(f"{web.url}/a")
    older = {"Last-Modified": "Thu, 29 Feb 2024 10:20:30 GMT"}
    web.pages["/a"] = lambda asked, _: (
        Page(b"", 304, older if says else {})
        if "if-modified-since" in asked.headers
        else Page(b"one", 200, older)
    )
    assert builds.content(builds.bring(f"{web.url}/a")) == b"one"


def test_where_a_304_does_not_say_of_what_date_the_file_is_not_sent_again_either(
    web: Web, builds: Builds
) -> None:
    dated = {"Last-Modified": OLD, "Date": "Fri, 01 Mar 2024 10:22:00 GMT"}
    web.pages["/a"] = Page(b"hello", headers=dated)
    first = builds.bring(f"{web.url}/a")
    web.pages["/a"] = lambda asked, _: (
        Page(b"", 304) if "if-modified-since" in asked.headers else Page(b"HELLO", 200, dated)
    )
    assert builds.bring(f"{web.url}/a") == first


def test_a_download_that_has_gone_from_the_store_is_made_again(web: Web, builds: Builds) -> None:
    web.pages["/a"] = versioned(b"hello", '"one"')
    builds.snapshotter.remove(builds.bring(f"{web.url}/a").directory)
    assert builds.content(builds.bring(f"{web.url}/a")) == b"hello"
    assert "if-none-match" not in web.asked[1].headers


@pytest.mark.parametrize("note", ["", "[]", "{}", "[[1]]", '[["a", "b"]]', "\0", "[null]"])
def test_a_damaged_note_costs_a_download(web: Web, builds: Builds, note: str) -> None:
    web.pages["/a"] = versioned(b"hello")
    builds.bring(f"{web.url}/a")
    (path,) = (builds.root / "http").iterdir()
    path.write_text(note)
    assert builds.content(builds.bring(f"{web.url}/a")) == b"hello"


def test_one_build_asks_once(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(b"hello")
    build = builds.build()
    threads = [threading.Thread(target=build.bring, args=(wanted(f"{web.url}/a"), Abort())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(web.asked) == 1


def test_what_has_the_checksum_is_taken_from_the_store_unasked(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(b"hello")
    first = builds.bring(f"{web.url}/a", checksum=Digest.of(b"hello"))
    again = builds.bring(f"{web.url}/a", checksum=Digest.of(b"hello"))
    assert (again, len(web.asked)) == (first, 1)


def test_what_has_another_checksum_is_refused_and_not_kept(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(b"evil")
    with pytest.raises(SourceError, match=f"{Digest.of(b'evil')}.*{Digest.of(b'hello')}"):
        builds.bring(f"{web.url}/a", checksum=Digest.of(b"hello"))
    assert builds.snapshotter.layers() == []
    assert not (builds.root / "http").exists()


def test_a_body_in_gzip_is_kept_unpacked_but_a_gzip_file_as_it_is(web: Web, builds: Builds) -> None:
    packed = gzip.compress(b"hello")
    web.pages["/a"] = Page(packed, headers={"Content-Encoding": "gzip"})
    web.pages["/b"] = Page(packed)
    assert builds.content(builds.bring(f"{web.url}/a")) == b"hello"
    assert builds.content(builds.bring(f"{web.url}/b")) == packed


def test_a_length_that_is_a_lie_is_an_error(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(b"short", headers={"Content-Length": "100"})
    with pytest.raises(SourceError, match="closed in the middle of the answer"):
        builds.bring(f"{web.url}/a")
    assert os.listdir(builds.root / "snapshots/new") == []


def test_a_transfer_that_breaks_off_is_tried_again(web: Web, builds: Builds) -> None:
    pages = [Page(b"short", headers={"Content-Length": "100"}), Page(b"whole")]
    web.pages["/a"] = lambda asked, _: pages.pop(0)
    assert builds.content(builds.bring(f"{web.url}/a")) == b"whole"


def test_what_never_ends_is_stopped(web: Web, builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIZE_LIMIT", 1 << 20)

    def endless(_: Asked, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            return

    web.pages["/a"] = endless
    with pytest.raises(SourceError, match="larger than"):
        builds.bring(f"{web.url}/a")
    assert os.listdir(builds.root / "snapshots/new") == []


def test_a_gzip_bomb_is_stopped(web: Web, builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIZE_LIMIT", 1 << 20)
    web.pages["/a"] = Page(gzip.compress(bytes(1 << 24)), headers={"Content-Encoding": "gzip"})
    with pytest.raises(SourceError, match="larger than"):
        builds.bring(f"{web.url}/a")


def test_a_server_that_hangs_is_left_after_one_wait(web: Web, builds: Builds) -> None:
    builds.settings["read_timeout_s"] = 0.2
    end = threading.Event()

    def hang(_: Asked, handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        end.wait(20)

    web.pages["/a"] = hang
    with pytest.raises(SourceError, match="no answer in time"):
        builds.bring(f"{web.url}/a")
    end.set()
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("status", "said"), [(404, "does not have it"), (403, "HTTP_AUTH_TOKEN_127.0.0.1"), (418, "status 418")]
)
def test_a_refusal_says_what_to_do(web: Web, builds: Builds, status: int, said: str) -> None:
    web.pages["/a"] = Page(b"no", status)
    with pytest.raises(SourceError, match=said):
        builds.bring(f"{web.url}/a?signature=secret")


@pytest.mark.parametrize(
    ("secret", "header"),
    [("HTTP_AUTH_TOKEN_127.0.0.1", "Bearer t0ken"), ("HTTP_AUTH_HEADER_127.0.0.1", "t0ken")],
)
def test_a_secret_of_the_host_is_sent(web: Web, builds: Builds, secret: str, header: str) -> None:
    builds.secrets[secret] = b"t0ken\n"
    web.pages["/a"] = Page(b"hello")
    builds.bring(f"{web.url}/a")
    assert web.asked[0].headers["authorization"] == header


def test_user_and_password_of_a_url_are_sent_and_never_shown(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(b"hello", 500)
    builds.settings["attempts"] = 1
    with pytest.raises(SourceError) as caught:
        builds.bring(f"http://us%65r:pa%40ss@{web.host}/a?key=hidden")
    assert web.asked[0].headers["authorization"] == "Basic " + base64.b64encode(b"user:pa@ss").decode()
    assert not [word for word in ("pa%40ss", "pa@ss", "hidden") if word in str(caught.value)]


def test_a_secret_of_several_lines_is_no_header(web: Web, builds: Builds) -> None:
    builds.secrets["HTTP_AUTH_HEADER_127.0.0.1"] = b"a\r\nX-Other: b"
    with pytest.raises(SourceError, match="several lines"):
        builds.bring(f"{web.url}/a")


def test_a_secret_that_the_op_names_must_be_there(web: Web, builds: Builds) -> None:
    with pytest.raises(SourceError, match="--secret id=KEY"):
        builds.bring(f"{web.url}/a", authheadersecret="KEY")


def test_credentials_do_not_go_where_a_redirect_leads(web: Web, builds: Builds) -> None:
    other = Web()
    try:
        builds.secrets["HTTP_AUTH_TOKEN_127.0.0.1"] = b"t0ken"
        web.pages["/a"] = Page(status=302, headers={"Location": f"{other.url}/b"})
        other.pages["/b"] = Page(b"hello")
        assert builds.content(builds.bring(f"{web.url}/a")) == b"hello"
        assert "authorization" not in other.asked[0].headers
    finally:
        other.close()


def test_credentials_stay_where_a_redirect_leads_to_the_same_server(web: Web, builds: Builds) -> None:
    builds.secrets["HTTP_AUTH_TOKEN_127.0.0.1"] = b"t0ken"
    web.pages["/a"] = Page(status=302, headers={"Location": "/b"})
    web.pages["/b"] = Page(b"hello")
    builds.bring(f"{web.url}/a")
    assert web.asked[1].headers["authorization"] == "Bearer t0ken"


def test_redirects_without_end_end(web: Web, builds: Builds) -> None:
    web.pages["/a"] = Page(status=302, headers={"Location": "/a"})
    with pytest.raises(SourceError, match="redirects more than 10 times"):
        builds.bring(f"{web.url}/a")


def test_a_proxy_is_gone_through(web: Web, builds: Builds) -> None:
    builds.settings["environment"] = {"http_proxy": web.url}
    web.pages["http://files.example/a"] = Page(b"by proxy")
    assert builds.content(builds.bring("http://files.example/a")) == b"by proxy"


def test_a_redirect_to_this_machine_is_refused_where_credentials_are_at_stake(
    web: Web, builds: Builds
) -> None:
    """The redirecting host is another one: it is reached by a proxy."""
    builds.settings["environment"] = {"http_proxy": web.url}
    other = Web()
    try:
        other.pages["/inside"] = Page(b"secret of this machine")
        web.pages["http://files.example/a"] = Page(status=302, headers={"Location": f"{other.url}/inside"})
        assert builds.content(builds.bring("http://files.example/a")) == b"secret of this machine"
        builds.secrets["HTTP_AUTH_TOKEN_files.example"] = b"t0ken"
        with pytest.raises(SourceError, match="this machine"):
            builds.bring("http://files.example/a")
        assert len(other.asked) == 1
    finally:
        other.close()


def test_notes_hold_neither_url_nor_credentials(web: Web, builds: Builds) -> None:
    web.pages["/a"] = versioned(b"hello")
    builds.secrets["HTTP_AUTH_TOKEN_127.0.0.1"] = b"t0ken"
    builds.bring(f"{web.url}/a?key=hidden")
    (path,) = (builds.root / "http").iterdir()
    text = path.name + path.read_text()
    assert json.loads(path.read_text())
    assert not [word for word in ("t0ken", "hidden", "127.0.0.1") if word in text]


def test_letters_of_all_kinds_may_stand_in_a_url(web: Web, builds: Builds) -> None:
    web.pages["/%C3%A4%20b"] = Page(b"hello")
    assert builds.content(builds.bring(f"{web.url}/ä b")) == b"hello"


def test_signatures_cannot_be_checked_and_so_are_not_ignored() -> None:
    with pytest.raises(SourceError, match="signatures"):
        wanted("http://127.0.0.1/a", sigverify="x")


RECORDED_TAR = (
    "H4sIAAAAAAAAA+3RTQqDMBCG4Vn3FLmAOFMm8TxuCt0o+AM5vtGlCwuFUKTvs5mQBPKFL7dSnRZdjMcszvNYm0d3V33u+6ZqLiHWjyayzks/"
    "hSDTOC5X9z6d31RuX9Xf2AtO7hf9d+f+LZkErZ5M/r7/99CU/z9+HQMAAAAAAAAAAAAAAADAFzZkDVa2ACgAAA=="
)


@pytest.mark.parametrize(
    ("name", "body", "date", "key", "content"),
    [
        ("file.bin", b"download me\n", OLD, "cafd3edf0eea", "f303e9c0b388"),
        ("file.bin", b"download me\n", "", "79aa248c62c8", "f303e9c0b388"),
        (
            "a.tar.gz",
            base64.b64decode(RECORDED_TAR),
            "Sat, 02 Mar 2024 10:20:30 GMT",
            "a9ce2d8e0326",
            "05f40d5e7535",
        ),
    ],
)
def test_keys_and_content_are_those_that_buildkit_recorded(
    web: Web, builds: Builds, name: str, body: bytes, date: str, key: str, content: str
) -> None:
    """Case c09-add-http, of which only the beginnings of the digests are kept here."""
    web.pages["/x"] = Page(body, headers={"Last-Modified": date} if date else {})
    op = SourceOp(f"{web.url}/x?y", (("http.filename", name),))
    build = builds.build()
    (digest,) = run(HttpSource(op, build, no_refs).digests())
    assert digest[7:19] == key
    directory = builds.snapshotter.upper(build.bring(WebFile.of(op), Abort()).directory)
    with Tree.at(directory) as tree:
        assert content_digest(tree, [ContentSelector(f"/{name}")])[7:19] == content


def no_refs() -> object:
    raise AssertionError
