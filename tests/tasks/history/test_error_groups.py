"""Errors are taken apart and grouped."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy.broker.streams.run_log import cut_error
from runqy.broker.tasks.archive_reasons import ErrorClass
from tasks.history.error_groups import normalize, parse_error
from tasks.history.rollups import add_to_histogram, merge_histograms, percentile_ms

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


@pytest.mark.parametrize(
    ("text", "sent", "message"),
    [
        ("ValueError: no user", "builtins.ValueError", "no user"),
        (TRACEBACK, "billing.errors.CardDeclined", "card of order 4711 declined"),
        ("no funds", "runqy_sdk.errors.Fail", "no funds"),
        ("ConnectionError: gone", "runqy_sdk.errors.Fail", "ConnectionError: gone"),
    ],
)
def test_a_class_that_was_sent_is_kept_and_begins_no_group(text: str, sent: str, message: str):
    parsed, alone = parse_error(text, sent), parse_error(text)

    assert parsed is not None
    assert alone is not None
    assert (parsed.error_class, parsed.message, parsed.fingerprint) == (sent, message, alone.fingerprint)


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


def test_a_process_that_dies_is_one_group_whatever_it_printed_and_however_often():
    cause = "the child process was killed by SIGKILL: probably it, or the machine, ran out of memory"
    handled = "".join(f'  File "a.py", line {n}\n' for n in range(200))
    tails = (
        "",
        "\n[it used 3,277 MiB when that was last measured]",
        "\n[it used 12 MiB when that was last measured]\n[3 child processes died while running this task]",
        f"\nTraceback (most recent call last):\n{handled}KeyError: 'handled'",
        '\nTraceback (most recent call last):\n  File "b.py", line 1\nOSError: handled\nepoch 3',
    )

    parsed = [parse_error(cut_error(f"{cause}{tail}"), ErrorClass.PROCESS_KILLED) for tail in tails]

    assert len({each.fingerprint for each in parsed}) == 1
    assert {each.error_class for each in parsed} == {ErrorClass.PROCESS_KILLED}
    assert all(each.message.startswith(cause) for each in parsed)
    segfault = parse_error("the child process was killed by SIGSEGV", ErrorClass.PROCESS_KILLED)
    assert segfault.fingerprint != parsed[0].fingerprint


def test_long_and_odd_messages_are_bounded():
    parsed = parse_error("Error: " + "'" * 5000 + "\ud800" + "9" * 5000)

    assert parsed is not None
    assert len(parsed.message) == 1000


def histogram_of(durations_ms):
    histogram = {}
    for duration_ms in durations_ms:
        add_to_histogram(histogram, duration_ms)
    return histogram


@given(st.lists(st.integers(0, 10**10), min_size=1), st.lists(st.integers(0, 10**10)), st.floats(0, 1))
def test_percentiles_lie_within_a_factor_of_the_true_one_and_within_what_was_measured(some, others, fraction):
    histogram = merge_histograms([histogram_of(some), histogram_of(others)])
    durations = sorted(some + others)
    true_ms = durations[max(math.ceil(fraction * len(durations)) - 1, 0)]

    estimated = percentile_ms(histogram, fraction)

    assert durations[0] <= estimated <= durations[-1]
    assert max(true_ms, 1) / 1.4143 <= max(estimated, 1) <= max(true_ms, 1) * 1.4143 or true_ms > 2**29


def test_percentiles_of_one_run_are_its_duration():
    assert [percentile_ms(histogram_of([103]), fraction) for fraction in (0, 0.5, 0.99)] == [103, 103, 103]
    assert percentile_ms({}, 0.5) is None
