"""URLs of Redis and the database, and the words for durations."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy.core.environment.connection_urls import (
    POSTGRESQL_LIMITS,
    RedisTarget,
    parse_database_url,
    parse_public_url,
    parse_redis_url,
)
from runqy.core.formats import durations


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://h", RedisTarget(addresses=(("h", 6379),))),
        (
            "redis://u:p%40ss@h:1/2",
            RedisTarget(addresses=(("h", 1),), username="u", password="p@ss", db=2),
        ),
        ("redis://:secret@[::1]:7", RedisTarget(addresses=(("::1", 7),), password="secret")),
        ("rediss://h", RedisTarget(addresses=(("h", 6379),), use_tls=True)),
        (
            "redis+cluster://a:1,b:2",
            RedisTarget(addresses=(("a", 1), ("b", 2)), mode="cluster"),
        ),
        (
            "redis+sentinel://:p@a,b:5/3?master=m&sentinel_password=sp",
            RedisTarget(
                addresses=(("a", 26379), ("b", 5)),
                mode="sentinel",
                password="p",
                db=3,
                master_name="m",
                sentinel_password="sp",
            ),
        ),
    ],
)
def test_a_redis_url_names_a_target(url: str, target: RedisTarget) -> None:
    assert parse_redis_url(url) == target


def test_a_certificate_authority_is_read_into_the_target(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")

    target = parse_redis_url(f"rediss://h?ca={authority}")

    assert target.ca_certificate == "-----BEGIN CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "must begin with"),
        ("redis://", "has no host"),
        ("redis://:hunter/2@h", "percent-encoded"),
        ("redis://:hunter2#x@h", "percent-encoded"),
        ("redis://:hunter2[x@h", "percent-encoded"),
        ("redis://:x?hunter2=x@h", "percent-encoded"),
        ("redis://:hunter2\uff03x@h", "percent-encoded"),
        ("redis+cluster://:hunter2#x@a:1,b:2", "percent-encoded"),
        ("redis://hunter:4711#x@h:6379/0", "percent-encoded"),
        ("redis://hunter:12?hunter=x@h:6379", "percent-encoded"),
        ("redis://hunter:12/3@h", "percent-encoded"),
        ("redis://h/x", "not a database number"),
        ("redis+cluster://h/1", "only database 0"),
        ("redis+sentinel://h", "must name its master"),
        ("redis://h?tiemout=3", "unknown option tiemout"),
        ("rediss://h?ca=/nowhere", "cannot be read"),
    ],
)
def test_a_wrong_redis_url_is_refused_without_showing_its_password(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        parse_redis_url(url)

    assert "hunter" not in str(refusal.value)


@pytest.mark.parametrize("character", ["#", "/", "?", "[", "\uff03", "#/@"])
def test_a_wrong_database_url_is_refused_without_showing_its_password(character: str) -> None:
    for password in (f"hunter2{character}Zx9", f"4711{character}hunter"):
        with pytest.raises(ValueError, match="percent-encoded") as refusal:
            parse_database_url(f"postgresql://runqy:{password}@db.internal/runqy")

        assert not re.search("hunter|4711", str(refusal.value))
        assert refusal.value.__cause__ is None


def test_a_database_url_becomes_settings_for_postgresql() -> None:
    words = parse_database_url("postgresql://u:p%2F@h:1/tasks?sslmode=require")

    assert words["ENGINE"].endswith("postgresql")
    assert (words["USER"], words["PASSWORD"], words["HOST"], words["PORT"], words["NAME"]) == (
        "u",
        "p/",
        "h",
        1,
        "tasks",
    )
    assert words["OPTIONS"] == {**POSTGRESQL_LIMITS, "sslmode": "require"}


def test_a_database_url_may_set_other_limits() -> None:
    words = parse_database_url("postgresql://h/tasks?connect_timeout=9&statement_timeout=1m&options=-c%20jit%3Doff")

    changed = {"connect_timeout": "9", "statement_timeout_s": 60, "options": "-c jit=off"}
    assert words["OPTIONS"] == {**POSTGRESQL_LIMITS, **changed}


def test_a_limit_of_statements_that_is_no_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_database_url("postgresql://h/tasks?statement_timeout=soon")


def test_a_database_url_names_an_sqlite_file() -> None:
    assert parse_database_url("sqlite:////var/lib/runqy.db") == {"NAME": "/var/lib/runqy.db"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("1h30m", 5400), ("1.5m", 90), ("300ms", 1), ("1.5", 2), ("0", 0), ("2h0m1s", 7201)],
)
def test_a_duration_is_read_in_seconds_rounded_up(text: str, seconds: int) -> None:
    assert durations.parse_s(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "1 h", "5x", "1h-3m", "s", "1d", "٣s"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (45, "45s"), (600, "10m0s"), (3600, "1h0m0s"), (90061, "25h1m1s")]
)
def test_a_duration_is_written_as_go_does(seconds: int, text: str) -> None:
    assert durations.format_s(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0 s"), (0.9, "0 s"), (-59.9, "59 s"), (60, "1 min"), (3599, "59 min")],
        *[(3600, "1 h"), (7500, "2 h 5 min"), (86_400, "1 d"), (90_000, "1 d 1 h"), (86_460, "1 d")],
    ],
)
def test_a_duration_is_humanized_in_its_largest_units(seconds: float, text: str) -> None:
    assert durations.humanize(seconds) == text


@given(st.integers(0, 10**8))
def test_a_short_duration_is_parsed_back(seconds: int) -> None:
    assert durations.parse_s(durations.format_short(seconds)) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(0, "0"), (45, "45s"), (600, "10m"), (5400, "1h30m"), (86400, "24h")])
def test_a_short_duration_omits_zero_units(seconds: int, text: str) -> None:
    assert durations.format_short(seconds) == text


@pytest.mark.parametrize(
    ("url", "origin"),
    [("https://runqy.example.com/", "https://runqy.example.com"), ("http://[::1]:3000", "http://[::1]:3000")],
)
def test_the_public_url_is_scheme_and_host(url: str, origin: str) -> None:
    assert parse_public_url(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "runqy.example.com",
        "ftp://h",
        "https://",
        "https://u:p@h",
        "https://h/x",
        "https://h?x=1",
        "https://h:0",
        "https://h:x",
    ],
)
def test_a_public_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected|[Pp]ort"):
        parse_public_url(url)
