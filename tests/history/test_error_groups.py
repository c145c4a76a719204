"""Errors are taken apart and grouped."""

import pytest

from tasks.history.error_groups import normalize, parse_error
from tasks.history.rollups import BUCKET_COUNT, bucket_of, merge_histograms, percentile_ms, upper_bound_ms

TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/main.py", line 10, in run
    charge(order)
billing.errors.CardDeclined: card of order 4711 declined
"""


@pytest.mark.parametrize(
    ("text", "error_class", "message"),
    [
        ("ValueError: no user 17", "ValueError", "no user 17"),
        ("requests.exceptions.Timeout: slow", "requests.exceptions.Timeout", "slow"),
        ("KeyboardInterrupt", "KeyboardInterrupt", ""),
        (TRACEBACK, "billing.errors.CardDeclined", "card of order 4711 declined"),
        ("Traceback (most recent call last):\n…\n  line 3\nKeyError: 'name'", "KeyError", "'name'"),
        ("timed out after 30 s", "", "timed out after 30 s"),
        ("warning: disk almost full", "", "warning: disk almost full"),
        ("HTTP: 404", "", "HTTP: 404"),
    ],
)
def test_class_and_message_are_taken_from_the_text(text: str, error_class: str, message: str):
    parsed = parse_error(text)

    assert parsed is not None
    assert (parsed.error_class, parsed.message) == (error_class, message)
    assert bool(parsed.traceback) == text.startswith("Traceback")


def test_an_empty_text_is_no_error():
    assert parse_error(" \n") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user 17 of 20", "user 4 of 2000"),
        ("no 'alice'", "no 'bob smith'"),
        ('no "a"', 'no "b"'),
        ("cannot open /srv/a/b.txt", "cannot open /tmp/x"),
        ("task 6f1c0d5e-1111-4222-8333-444455556666 gone", "task 00000000-0000-0000-0000-000000000000 gone"),
        ("at 0x7f31ab", "at 0xdeadbeef"),
        ("commit 4f2c9a1b77 missing", "commit 99e0aa12bc missing"),
        ("GET https://a.example/x?y=1 failed", "GET http://b.example failed"),
        ("took 1.5 s", "took 12,000 s"),
        ("a   b", "a\nb"),
    ],
)
def test_messages_that_differ_in_variable_parts_are_one_group(one: str, other: str):
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(
    ("one", "other"), [("no user", "no group"), ("ValueError: x", "TypeError: x"), ("disk full", "disk fool")]
)
def test_other_messages_are_other_groups(one: str, other: str):
    first, second = parse_error(one), parse_error(other)

    assert first is not None
    assert second is not None
    assert first.fingerprint != second.fingerprint


def test_what_a_killed_process_printed_makes_no_other_group():
    cause = "the child process was killed by SIGKILL"

    fingerprints = {parse_error(f"{cause}{tail}").fingerprint for tail in ("", "\nbatch of 16", "\nepoch\nloss nan")}

    assert len(fingerprints) == 1


def test_long_and_odd_messages_are_bounded():
    parsed = parse_error("Error: " + "'" * 5000 + "\ud800" + "9" * 5000)

    assert parsed is not None
    assert len(parsed.message) == 1000


def test_buckets_hold_what_their_bounds_say():
    for duration_ms in (0, 1, 1.4, 2, 3, 1000, 86_400_000):
        bucket = int(bucket_of(duration_ms))
        assert duration_ms <= upper_bound_ms(bucket) * 1.000001
        assert bucket == 0 or duration_ms > upper_bound_ms(bucket - 1) * 0.999999
    assert int(bucket_of(10**15)) == BUCKET_COUNT - 1


def test_percentiles_are_interpolated_between_the_bounds():
    histogram = merge_histograms([{bucket_of(100): 90}, {bucket_of(10_000): 10}])

    assert percentile_ms(histogram, 0.5) == pytest.approx(100, rel=0.3)
    assert percentile_ms(histogram, 0.95) == pytest.approx(10_000, rel=0.3)
    assert percentile_ms({}, 0.5) is None
