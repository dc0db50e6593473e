"""Who we say we are to a registry: docker's credentials, challenges, tokens, and where none of them goes."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from fake_registry import FakeRegistry, answer, cut, hang, raw
from inlay.digest import Digest
from inlay.errors import ContentError, RegistryError, Unauthorized
from inlay.oci.descriptor import OCI_LAYER, Descriptor
from inlay.registry import auth
from inlay.registry.auth import Credential, DockerConfig
from inlay.registry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fake_registry import Exchange
    from inlay.registry.transport import Transport

    Connect = Callable[..., Transport]

LAYER = Descriptor(OCI_LAYER, Digest.of(b"layer"), 5)
WHO = Credential("user", "pa:ss")
BASIC = "Basic " + base64.b64encode(b"user:pa:ss").decode()


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    """Another host: another port counts as one."""
    registry = FakeRegistry()
    yield registry
    registry.close()


def read(host: str, transport: Transport) -> bytes:
    return Repository(host, "app", transport).read_blob(LAYER, 100)


def wants(challenge: str, right: str) -> Callable[[FakeRegistry, Exchange], bool]:
    """A fault that lets nobody in whose authorization is not `right`."""

    def fault(fake: FakeRegistry, exchange: Exchange) -> bool:
        if exchange.headers.get("authorization") == right:
            return True
        exchange.reply(401, WWW_Authenticate=challenge)
        return False

    return fault


def token(text: str, **fields: object) -> Callable[[FakeRegistry, Exchange], None]:
    return answer(200, json.dumps({"token": text, **fields}).encode())


def authorizations(registry: FakeRegistry) -> list[str | None]:
    return [record.headers.get("authorization") for record in registry.requests]


# -- challenges -------------------------------------------------------------------------------------------


def test_basic_credentials_are_sent_once_they_are_asked_for(fake: FakeRegistry, connect: Connect) -> None:
    fake.put(b"layer")
    fake.fault("", "", wants('Basic realm="x"', BASIC), times=99)
    transport = connect(lambda host: WHO if host == fake.host else None)
    assert read(fake.host, transport) == read(fake.host, transport) == b"layer"
    assert authorizations(fake) == [None, BASIC, BASIC]


def test_wrong_credentials_are_named_with_what_to_do_and_not_repeated(
    fake: FakeRegistry, connect: Connect
) -> None:
    fake.fault("", "", answer(401, b'{"errors":[{"message":"no: pa:ss"}]}', WWW_Authenticate="Basic"), 99)
    with pytest.raises(Unauthorized, match=f"docker login {fake.host}") as caught:
        read(fake.host, connect(lambda host: WHO))
    assert BASIC.split()[1] not in str(caught.value)
    assert "pa:ss" not in str(caught.value)
    assert len(fake.requests) == 2


@pytest.mark.parametrize("asked", [{}, {"WWW_Authenticate": "Negotiate"}, {"WWW_Authenticate": ", ,"}])
def test_a_refusal_that_asks_for_nothing_known_is_told(
    asked: dict[str, str], fake: FakeRegistry, connect: Connect
) -> None:
    fake.fault("", "", answer(401, **asked))
    with pytest.raises(Unauthorized, match=f"docker login {fake.host}"):
        read(fake.host, connect(lambda host: WHO))


def bearer(place: FakeRegistry) -> str:
    return f'Bearer realm="http://{place.host}/token",service="the service",scope="repository:app:pull"'


def test_a_token_is_fetched_with_the_credentials_and_kept(
    fake: FakeRegistry, other: FakeRegistry, connect: Connect
) -> None:
    fake.put(b"layer")
    fake.fault("", "/v2/", wants(bearer(other), "Bearer t1"), times=99)
    other.fault("GET", "/token", token("t1"))
    transport = connect(lambda host: WHO)
    assert read(fake.host, transport) == read(fake.host, transport) == b"layer"
    assert authorizations(other) == [BASIC]
    query = parse_qs(other.requests[0].target.partition("?")[2])
    assert query == {"service": ["the service"], "scope": ["repository:app:pull"]}
    assert authorizations(fake) == [None, "Bearer t1", "Bearer t1"]


def test_a_token_that_was_refused_is_not_asked_for_again(
    fake: FakeRegistry, other: FakeRegistry, connect: Connect
) -> None:
    fake.fault("", "/v2/", wants(bearer(other), "Bearer t1"), times=99)
    other.fault("GET", "/token", answer(401), times=99)
    transport = connect(lambda host: WHO)
    for _ in range(3):
        with pytest.raises(Unauthorized, match="refuses the stored credentials"):
            read(fake.host, transport)
    assert authorizations(other) == [BASIC]


def test_a_token_that_has_expired_is_fetched_anew(fake: FakeRegistry, connect: Connect) -> None:
    """By its time, before it is used; and when the registry no longer takes it, whatever its time."""
    fake.put(b"layer")
    fake.fault("GET", "/token", token("t1", expires_in=0.001))
    fake.fault("GET", "/token", token("t2", expires_in=3600))
    fake.fault("", "/v2/", wants(bearer(fake), "Bearer t1"), times=2)
    fake.fault("", "/v2/", wants(bearer(fake), "Bearer t2"), times=1)
    fake.fault("", "/v2/", wants(bearer(fake), "Bearer t3"), times=99)
    fake.fault("GET", "/token", token("t3"))
    transport = connect(lambda host: None)
    for _ in range(3):
        assert read(fake.host, transport) == b"layer"
        time.sleep(0.002)
    asked = [
        f"{record.target.partition('?')[0]} {record.headers.get('authorization')}" for record in fake.requests
    ]
    blob = f"/v2/app/blobs/{LAYER.digest}"
    assert asked == [
        f"{blob} None", "/token None", f"{blob} Bearer t1",
        "/token None", f"{blob} Bearer t2",
        f"{blob} Bearer t2", "/token None", f"{blob} Bearer t3",
    ]  # fmt: skip


def test_an_identity_token_is_exchanged(fake: FakeRegistry, connect: Connect) -> None:
    fake.put(b"layer")
    bodies: list[bytes] = []

    def exchange_token(_: FakeRegistry, exchange: Exchange) -> None:
        bodies.append(exchange.body)
        exchange.reply(200, b'{"access_token":"t1"}')

    fake.fault("POST", "/token", exchange_token)
    fake.fault("", "/v2/", wants(bearer(fake), "Bearer t1"), times=99)
    assert read(fake.host, connect(lambda host: Credential("", "", "id&token"))) == b"layer"
    fields = {name: values[0] for name, values in parse_qs(bodies[0].decode()).items()}
    assert fields["grant_type"] == "refresh_token"
    assert fields["refresh_token"] == "id&token"
    assert fields["scope"] == "repository:app:pull"


def test_a_token_service_that_says_nonsense_is_an_error(fake: FakeRegistry, connect: Connect) -> None:
    fake.fault("", "/v2/", wants(bearer(fake), "Bearer t1"), times=99)
    fake.fault("GET", "/token", answer(200, b'{"token":"a\\r\\nX-Evil: b"}'))
    with pytest.raises(RegistryError, match="gave no token"):
        read(fake.host, connect(lambda host: WHO))


# -- where credentials do not go --------------------------------------------------------------------------


def test_credentials_do_not_follow_a_redirect(
    fake: FakeRegistry, other: FakeRegistry, connect: Connect
) -> None:
    other.put(b"layer")
    fake.fault("", "", wants("Basic", BASIC))
    place = f"http://{other.host}/v2/app/blobs/{LAYER.digest}"
    fake.fault("", "", answer(307, Location=place), times=9)
    assert read(fake.host, connect(lambda host: WHO)) == b"layer"
    assert authorizations(fake) == [None, BASIC]
    assert authorizations(other) == [None]


def test_nor_does_what_the_other_host_asks_for_get_an_answer(
    fake: FakeRegistry, other: FakeRegistry, connect: Connect
) -> None:
    fake.fault("", "", wants("Basic", BASIC))
    fake.fault("", "", answer(307, Location=f"http://{other.host}/x"), times=9)
    other.fault("", "", answer(401, WWW_Authenticate=bearer(other)), times=9)
    with pytest.raises(Unauthorized):
        read(fake.host, connect(lambda host: WHO))
    assert authorizations(other) == [None]


@pytest.mark.parametrize("credential", [WHO, Credential("", "", "id-token")])
def test_a_token_service_s_redirect_gets_no_credentials(
    fake: FakeRegistry, other: FakeRegistry, connect: Connect, credential: Credential
) -> None:
    fake.fault("", "/v2/", wants(bearer(fake), "Bearer t1"), times=9)
    fake.fault("", "/token", answer(307, Location=f"http://{other.host}/token"), times=9)
    other.fault("", "/token", token("t1"), times=9)
    fake.put(b"layer")
    try:
        read(fake.host, connect(lambda host: credential))
    except RegistryError as error:
        assert "token" in str(error)  # noqa: PT017 - either is well
    assert [a for a in authorizations(other) if a] == []
    assert not any(record.method == "POST" for record in other.requests)


def test_an_upload_s_place_on_another_host_gets_no_credentials(
    fake: FakeRegistry, other: FakeRegistry, connect: Connect
) -> None:
    fake.fault("HEAD", "", answer(404))
    fake.fault("POST", "", wants("Basic", BASIC))
    fake.fault("POST", "", answer(202, Location=f"http://{other.host}/v2/app/blobs/uploads/0-0"))
    other.uploads["0-0"] = bytearray()
    repository = Repository(fake.host, "app", connect(lambda host: WHO))
    repository.push_blob(LAYER, lambda: io.BytesIO(b"layer"))
    assert other.blobs[str(LAYER.digest)] == b"layer"
    assert set(authorizations(other)) == {None}


# -- registries that hang or lie --------------------------------------------------------------------------


def test_a_registry_that_hangs_is_left_in_good_time(fake: FakeRegistry, connect: Connect) -> None:
    released = threading.Event()
    fake.fault("", "", hang(released), times=99)
    try:
        with pytest.raises(RegistryError, match="no answer in time"):
            read(fake.host, connect(read_timeout_s=0.2, attempts=2))
    finally:
        released.set()


def test_one_that_stops_in_the_middle_is_gone_on_with_and_given_up_in_the_end(
    fake: FakeRegistry, connect: Connect
) -> None:
    fake.put(b"layer")
    fake.fault("GET", "/blobs/", cut(2))
    assert read(fake.host, connect()) == b"layer"
    fake.fault("GET", "/blobs/", cut(0), times=99)
    with pytest.raises(RegistryError):
        read(fake.host, connect(attempts=2))


@pytest.mark.parametrize("length", [b"3", b"7", b"99999999999999999999", b"-1", b"x"])
def test_a_length_that_is_a_lie_is_an_error(fake: FakeRegistry, connect: Connect, length: bytes) -> None:
    lie = raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nlayer")
    fake.fault("GET", "/blobs/", lie, times=99)
    with pytest.raises((RegistryError, ContentError)):
        read(fake.host, connect(attempts=2))


@pytest.mark.parametrize("body", [b"layer and more", b"lay"])
def test_content_of_another_size_is_refused(fake: FakeRegistry, connect: Connect, body: bytes) -> None:
    fake.fault("GET", "/blobs/", answer(200, body), times=99)
    with pytest.raises(ContentError, match="sha256"):
        read(fake.host, connect(attempts=2))


def test_a_body_without_end_is_left(fake: FakeRegistry, connect: Connect) -> None:
    chunks = b"".join(b"5\r\nlayer\r\n" for _ in range(100_000))
    fake.fault("GET", "", raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks), times=99)
    with pytest.raises((RegistryError, ContentError)):
        read(fake.host, connect(attempts=2))
    with pytest.raises((RegistryError, ContentError)):
        Repository(fake.host, "app", connect(attempts=2)).fetch_manifest("v1")


# -- docker's credential file -----------------------------------------------------------------------------


def config(folder: Path, **fields: object) -> DockerConfig:
    (folder / "config.json").write_text(json.dumps(fields))
    return DockerConfig.default({"DOCKER_CONFIG": str(folder)})


def entry(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_entries_are_found_by_host_and_url(tmp_path: Path) -> None:
    auths = {"https://one.example/v1/": entry("a:b:c"), "two.example:5000": {"identitytoken": "t"}}
    auths |= {"https://index.docker.io/v1/": entry("hub:x")}
    read_config = config(tmp_path, auths=auths)
    assert read_config.credential("one.example") == Credential("a", "b:c")
    assert read_config.credential("two.example:5000") == Credential("", "", "t")
    assert read_config.credential("two.example") is None
    assert read_config.credential("docker.io") == Credential("hub", "x")


def helper(folder: Path, script: str) -> str:
    """A credential helper of this name, which is on PATH."""
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return "test"


GIVE = 'test "$1" = get && read -r host; printf \'{"Username":"%s","Secret":"word"}\' "$host"'


def test_a_helper_is_asked_for_its_registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    name = helper(tmp_path, GIVE)
    one = config(tmp_path, credHelpers={"one.example": name}, auths={"two.example": entry("a:b")})
    assert one.credential("one.example") == Credential("one.example", "word")
    assert one.credential("two.example") == Credential("a", "b")
    assert config(tmp_path, credsStore=name).credential("docker.io") == Credential(
        "https://index.docker.io/v1/", "word"
    )
    helper(tmp_path, 'printf \'{"Username":"<token>","Secret":"id"}\'')
    assert config(tmp_path, credsStore=name).credential("x") == Credential("", "", "id")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "failed for x with exit code 3"),
        ("echo rubbish", "gave no usable answer"),
        ("exec sleep 60", "gave no usable answer"),
    ],
)
def test_a_helper_that_fails_says_nothing_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(auth, "_HELPER_TIMEOUT_S", 0.2)
    broken = config(tmp_path, credsStore=helper(tmp_path, script))
    assert broken.credential("x") is None
    assert said in broken.notes[0]


def test_a_helper_s_name_is_no_path(tmp_path: Path) -> None:
    assert config(tmp_path, credsStore="../../bin/sh").credential("x") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"auths": 1}', '{"auths": {"x": 1}, "credHelpers": 2}'])
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert DockerConfig.default({"DOCKER_CONFIG": str(tmp_path)}).credential("x") is None


def test_the_environment_s_entries_come_first(tmp_path: Path) -> None:
    """DOCKER_AUTH_CONFIG, as docker and CI services have it."""
    config(tmp_path, auths={"one.example": entry("file:x"), "two.example": entry("file:y")})
    given = json.dumps({"auths": {"one.example": entry("env:z")}})
    both = DockerConfig.default({"DOCKER_CONFIG": str(tmp_path), "DOCKER_AUTH_CONFIG": given})
    assert both.credential("one.example") == Credential("env", "z")
    assert both.credential("two.example") == Credential("file", "y")
    broken = DockerConfig.default({"DOCKER_CONFIG": str(tmp_path), "DOCKER_AUTH_CONFIG": "{secret"})
    assert broken.credential("one.example") == Credential("file", "x")
    assert broken.notes == ["DOCKER_AUTH_CONFIG is not used: it is not JSON"]
