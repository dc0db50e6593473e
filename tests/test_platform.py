from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.errors import UsageError
from inlay.platform import Platform, format_platform, host, match_rank, normalise, parse, parse_wanted


def ranked(wanted: str, *offered: str) -> list[str]:
    """What is offered and fits, best first."""
    ranks = {text: match_rank(parse(text=wanted), parse(text)) for text in offered}
    fitting = {text: rank for text, rank in ranks.items() if rank is not None}
    return sorted(fitting, key=fitting.__getitem__)


def test_exact_platforms_rank_before_older_ones() -> None:
    offered = (
        "linux/arm/v5",
        "linux/arm/v6",
        "linux/arm64",
        "linux/arm/v7",
        "linux/arm/v8",
        "windows/arm/v7",
    )
    assert ranked("linux/arm/v7", *offered) == ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]


def test_arm64_takes_arm_after_its_own_versions() -> None:
    offered = ("linux/arm/v7", "linux/arm64/v8.1", "linux/arm/v8", "linux/arm64", "linux/arm64/v9")
    assert ranked("linux/arm64/v9", *offered)[:3] == ["linux/arm64/v9", "linux/arm64/v8.1", "linux/arm64"]
    assert ranked("linux/arm64", *offered) == ["linux/arm64", "linux/arm/v8", "linux/arm/v7"]
    assert ranked("linux/arm64/new", *offered) == []


def test_amd64_takes_lower_levels_and_386() -> None:
    offered = ("linux/386", "linux/amd64", "linux/amd64/v2", "linux/amd64/v4")
    assert ranked("linux/amd64/v3", *offered) == ["linux/amd64/v2", "linux/amd64", "linux/386"]
    assert ranked("linux/amd64", *offered) == ["linux/amd64", "linux/386"]


def test_offered_features_must_be_wanted_and_more_are_better() -> None:
    wanted = Platform("linux", "amd64", os_features=("a", "b"))
    ranks = [
        match_rank(wanted, Platform("linux", "amd64", os_features=f))
        for f in (("a", "b"), ("a",), (), ("c",))
    ]
    assert ranks == [0, 1, 2, None]


def test_windows_versions_agree_up_to_the_build() -> None:
    wanted = Platform("windows", "amd64", os_version="10.0.17763.1")
    assert match_rank(wanted, wanted._replace(os_version="10.0.17763.9", os_features=("win32k",))) == 0
    assert match_rank(wanted, wanted._replace(os_version="10.0.20348.9")) is None
    assert match_rank(wanted, wanted._replace(os_version="")) == 0


def test_the_host_is_a_normal_platform() -> None:
    assert host().os == "linux"
    assert normalise(host()) == host()
    assert match_rank(host(), host()) == 0


def test_half_a_platform_is_completed_from_the_default() -> None:
    assert parse("linux", default=Platform("linux", "arm", "v6")) == Platform("linux", "arm", "v6")
    assert parse("s390x", default=Platform("linux", "arm", "v6")) == Platform("linux", "s390x")


def test_percent_encoded_options() -> None:
    platform = parse("windows(10%2e0+a%2Bb)/amd64")
    assert (platform.os_version, platform.os_features) == ("10.0", ("a+b",))
    assert format_platform(platform) == "windows(10.0+a%2Bb)/amd64"
    with pytest.raises(UsageError, match='invalid URL escape "%zz"'):
        parse("windows(%zz)/amd64")


@given(st.text(max_size=30) | st.text("linux/amd64(+%.)v8\n", max_size=30))
def test_any_text_is_a_platform_or_a_usage_error(text: str) -> None:
    try:
        platform = parse(text)
    except UsageError:
        return
    assert normalise(normalise(platform)) == normalise(platform)
    match_rank(platform, host())


def test_what_is_wanted_is_checked_and_named_once() -> None:
    assert parse_wanted(["linux/arm64", "linux/arm/v7"]) == ["linux/arm64", "linux/arm/v7"]
    assert parse_wanted(["linux/amd64", "linux/x86_64", "amd64"]) == ["linux/amd64"]
    assert parse_wanted(["local", str(host())]) == [str(host())]
    assert parse_wanted(["linux/arm64/v8.2", "linux/amd64/v3", "windows/amd64"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linux/amd63", 'unknown architecture "amd63"; did you mean linux/amd64?'),
        ("linux/arm46", "did you mean linux/arm64?"),
        ("lnux/amd64", 'unknown operating system "lnux"; did you mean linux/amd64?'),
        ("risv64", "did you mean linux/riscv64?"),
        ("linux/arm/v9", 'unknown variant "v9"; there are v5 to v8'),
        ("linux/arm64/new", 'unknown variant "new"; there are v8'),
        ("*", "wildcards not yet supported; such are linux/amd64, "),
        ("a/b/c/d/e", "; such are linux/amd64, "),
    ],
)
def test_a_platform_that_does_not_exist_is_refused_with_what_may_be_meant(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_wanted([text])
    assert str(caught.value).startswith(f"--platform {text}: ")
    assert said in str(caught.value)
