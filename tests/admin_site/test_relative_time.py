"""Times relative to now."""

from runqy.admin_site.times import RelativeTime

S_NS = 10**9


def test_times_of_one_second_are_formatted_alike() -> None:
    now_ns = 1000 * S_NS + 5

    whole, in_parts = (RelativeTime(at_ns, now_ns).relative for at_ns in (520 * S_NS, 520 * S_NS + 900_000_000))

    assert (whole, in_parts) == ("8 min ago", "8 min ago")


def test_the_future_is_formatted_in_whole_seconds_too() -> None:
    assert RelativeTime(1002 * S_NS, 1000 * S_NS + 900_000_000).relative == "in 2 s"
