"""Timestamps in responses."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy.core.formats.timestamps import format_ns, format_s

BEFORE, EPOCH, END = (datetime(year, 1, 1, tzinfo=UTC) for year in (1900, 1970, 9999))


@given(st.integers(int((BEFORE - EPOCH).total_seconds()) * 10**9, int((END - EPOCH).total_seconds()) * 10**9))
def test_a_timestamp_has_microseconds(nanoseconds: int) -> None:
    formatted = format_ns(nanoseconds)

    assert formatted is not None
    assert formatted.endswith("Z")
    assert datetime.fromisoformat(formatted) == EPOCH + timedelta(microseconds=nanoseconds // 1000)


@pytest.mark.parametrize(
    ("nanoseconds", "formatted"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00Z"),
        (999, "1970-01-01T00:00:00Z"),
        (1_700_000_000_000_001_000, "2023-11-14T22:13:20.000001Z"),
        (1_700_000_000_500_000_000, "2023-11-14T22:13:20.500000Z"),
        (253_402_300_799_999_999_999, "9999-12-31T23:59:59.999999Z"),
        (253_402_300_800_500_000_000, "9999-12-31T23:59:59Z"),
    ],
)
def test_a_timestamp_has_no_fraction_of_zero_and_ends_with_the_year_9999(
    nanoseconds: int | None, formatted: str
) -> None:
    assert format_ns(nanoseconds) == formatted


def test_seconds_are_formatted_like_nanoseconds() -> None:
    assert (format_s(None), format_s(1_700_000_000)) == (None, "2023-11-14T22:13:20Z")
