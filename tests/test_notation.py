"""notation: options, sizes and ages as flags take them."""

from __future__ import annotations

import pytest

from inlay.errors import UsageError
from inlay.export.plan import plan_outputs
from inlay.notation import (
    parse_age,
    parse_cache_from,
    parse_cache_to,
    parse_output,
    parse_size,
    separate_caches,
    unknown_fields,
)
from inlay.request import BuildRequest, Option


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
        ("10 GB", 10 << 30),
        ("512b", 512),
        ("1t", 1 << 40),
    ],
)
def test_sizes_are_docker_s(text: str, expected: int) -> None:
    assert parse_size(text, "--shm-size") == expected


@pytest.mark.parametrize("text", ["", "m", "1x", "-1", "1.m", ".5g", "1e3", "1mm", "١m"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--shm-size"):
        parse_size(text, "--shm-size")


@pytest.mark.parametrize(
    ("text", "expected"), [("24h", 86400), ("1h30m", 5400), ("7d", 604800), ("1.5h", 5400), ("90s", 90)]
)
def test_ages_are_go_durations_and_days(text: str, expected: float) -> None:
    assert parse_age(text, "--filter") == expected


@pytest.mark.parametrize("text", ["", "h", "24", "1x", "-1h", "1..5h", "1h2"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(UsageError, match="--filter"):
        parse_age(text, "--filter")


def test_empty_caches_are_none_and_references_may_share_a_flag() -> None:
    """As buildx reads them: scripts pass `--cache-from "$CACHES"`."""
    given = ["", "r/a:1,r/b:2", "type=local,src=c", '"type=local","src=d,e"', "r/f"]
    assert separate_caches(given) == ["r/a:1", "r/b:2", "type=local,src=c", '"type=local","src=d,e"', "r/f"]


def test_the_last_of_several_fields_of_one_name_counts() -> None:
    assert parse_cache_from("type=registry,ref=r/a,ref=r/b").get("ref") == "r/b"


def test_an_empty_mode_is_the_default() -> None:
    assert parse_cache_to("type=registry,ref=r/a,mode=").get("mode") == ""


@pytest.mark.parametrize(
    "pair",
    [
        ("type=registry,ref=r/a", "type=registry,ref=r/a,mode=max"),
        ("type=registry,ref=r/a", "type=registry,ref=r/a:latest"),
        ("type=registry,ref=a", "type=registry,ref=docker.io/library/a:latest"),
        ("type=local,dest=c", "type=local,dest=./c/"),
        ("type=local,dest=c", "type=local,dest=c,tag=latest"),
    ],
)
def test_two_caches_cannot_go_to_one_place_whatever_it_is_called(pair: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="two caches cannot go to the same place"):
        plan_outputs(BuildRequest(cache_to=tuple(map(parse_cache_to, pair))))


def test_caches_of_two_tags_may_be_in_one_folder() -> None:
    plan_outputs(
        BuildRequest(cache_to=tuple(parse_cache_to(f"type=local,dest=c,tag={tag}") for tag in ("a", "b")))
    )


@pytest.mark.parametrize(
    ("flag", "text", "name"),
    [
        ("cache-from", "type=registry,ref=r/a,mode=max", "mode"),
        ("cache-from", "type=local,src=c,tga=x", "tga"),
        ("cache-to", "type=registry,ref=r/a,mod=max", "mod"),
        ("cache-to", "type=inline,ref=r/a", "ref"),
        ("cache-to", "type=local,dest=c,ref=x", "ref"),
        ("output", "type=image,name=r/a,push-by-digest=true", "push-by-digest"),
        ("output", "type=local,dest=c,push=true", "push"),
    ],
)
def test_what_has_no_effect_is_found(flag: str, text: str, name: str) -> None:
    request = {
        "cache-from": lambda: BuildRequest(cache_from=(parse_cache_from(text),)),
        "cache-to": lambda: BuildRequest(cache_to=(parse_cache_to(text),)),
        "output": lambda: BuildRequest(outputs=(parse_output(text),)),
    }[flag]()
    ((where, option, found, known),) = unknown_fields(request)
    assert (where, str(option), found) == (flag, text, name)
    assert found not in known


def test_what_has_an_effect_is_not() -> None:
    cache = "mode=max,compression=zstd,compression-level=3,force-compression=true,ignore-error=true"
    forms = "oci-mediatypes=true,image-manifest=true"
    request = BuildRequest(
        cache_from=(
            parse_cache_from("r/a"),
            parse_cache_from("type=local,src=c,tag=t"),
            parse_cache_from("type=oci-layout,src=c,digest=d"),
        ),
        cache_to=(
            parse_cache_to("type=inline,mode=max"),
            parse_cache_to(f"type=registry,ref=r/a,{cache},{forms}"),
            parse_cache_to(f"type=local,dest=c,tag=t,reset=true,{cache},{forms}"),
        ),
        outputs=(
            parse_output("type=registry,name=r/a,push=true,oci-mediatypes=true,compression=zstd"),
            parse_output("type=oci,dest=o,tar=false,rewrite-timestamp=true"),
            parse_output("type=local,dest=o,platform-split=true"),
            Option("cacheonly"),
        ),
    )
    assert list(unknown_fields(request)) == []
