"""Due times over two years in zones whose clocks change, against lists from the zone data (`zdump -v`)."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest

from schedules.times import Timing, explain_cron, parse_cron

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A zone as zdump prints it, and what its changes mean for two daily schedules."""

    name: str
    minutes: int
    """The offset on 1 January 2026."""
    changes: dict[str, int]
    """The UTC times of changes, and the offset from then on, in minutes."""
    gap: str
    """A local time that does not exist on the days when clocks are set forward."""
    gap_ends: dict[str, str]
    """By day, the UTC time at which the gap ends."""
    twice: str
    """A local time that exists twice on the days when clocks are set back."""
    first: dict[str, str]
    """By day, the UTC time at which it is that time first."""

    def offset(self, time: datetime) -> timedelta:
        found = [minutes for change, minutes in self.changes.items() if at(change) <= time]
        return timedelta(minutes=found[-1] if found else self.minutes)

    def daily(self, local: str, exceptions: dict[str, str]) -> list[datetime]:
        """Return the times of a daily schedule: those of its exceptions, and by the offset of the day otherwise."""
        hour, minute = map(int, local.split(":"))
        times, day = [], date(2025, 12, 31)
        while day < date(2028, 1, 2):
            if found := exceptions.get(f"{day}"):
                times.append(at(found))
            else:
                wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
                times += {wall - each for each in self.offsets() if self.offset(wall - each) == each}
            day += timedelta(days=1)
        return [time for time in times if START < time <= END]

    def exceptions(self, days: dict[str, str]) -> dict[str, str]:
        return self.gap_ends | self.first if self.gap == self.twice else days

    def offsets(self) -> set[timedelta]:
        return {timedelta(minutes=minutes) for minutes in (self.minutes, *self.changes.values())}


ZONES = [
    Zone(
        name="Europe/Berlin",
        minutes=60,
        changes={"2026-03-29T01:00": 120, "2026-10-25T01:00": 60, "2027-03-28T01:00": 120, "2027-10-31T01:00": 60},
        gap="02:30",
        gap_ends={"2026-03-29": "2026-03-29T01:00", "2027-03-28": "2027-03-28T01:00"},
        twice="02:30",
        first={"2026-10-25": "2026-10-25T00:30", "2027-10-31": "2027-10-31T00:30"},
    ),
    Zone(
        name="America/New_York",
        minutes=-300,
        changes={
            "2026-03-08T07:00": -240,
            "2026-11-01T06:00": -300,
            "2027-03-14T07:00": -240,
            "2027-11-07T06:00": -300,
        },
        gap="02:00",
        gap_ends={"2026-03-08": "2026-03-08T07:00", "2027-03-14": "2027-03-14T07:00"},
        twice="01:15",
        first={"2026-11-01": "2026-11-01T05:15", "2027-11-07": "2027-11-07T05:15"},
    ),
    Zone(  # half an hour
        name="Australia/Lord_Howe",
        minutes=660,
        changes={"2026-04-04T15:00": 630, "2026-10-03T15:30": 660, "2027-04-03T15:00": 630, "2027-10-02T15:30": 660},
        gap="02:15",
        gap_ends={"2026-10-04": "2026-10-03T15:30", "2027-10-03": "2027-10-02T15:30"},
        twice="01:45",
        first={"2026-04-05": "2026-04-04T14:45", "2027-04-04": "2027-04-03T14:45"},
    ),
    Zone(  # at midnight, so that a day has no 00:00
        name="America/Santiago",
        minutes=-180,
        changes={
            "2026-04-05T03:00": -240,
            "2026-09-06T04:00": -180,
            "2027-04-04T03:00": -240,
            "2027-09-05T04:00": -180,
        },
        gap="00:00",
        gap_ends={"2026-09-06": "2026-09-06T04:00", "2027-09-05": "2027-09-05T04:00"},
        twice="23:30",
        first={"2026-04-04": "2026-04-05T02:30", "2027-04-03": "2027-04-04T02:30"},
    ),
    Zone(  # on Fridays and Thursdays, at midnight
        name="Africa/Cairo",
        minutes=120,
        changes={"2026-04-23T22:00": 180, "2026-10-29T21:00": 120, "2027-04-29T22:00": 180, "2027-10-28T21:00": 120},
        gap="00:59",
        gap_ends={"2026-04-24": "2026-04-23T22:00", "2027-04-30": "2027-04-29T22:00"},
        twice="23:00",
        first={"2026-10-29": "2026-10-29T20:00", "2027-10-28": "2027-10-28T20:00"},
    ),
]
each_zone = pytest.mark.parametrize("zone", ZONES, ids=lambda zone: zone.name)


def fired(cron: str, zone: str) -> list[datetime]:
    """Return the due times of two years, each found from the one before."""
    timing, times, time = Timing(cron=cron, zone=zone), [], START
    while (time := timing.next_after(time)) is not None and time <= END:
        times.append(time)
    return times


def cron_of(local: str) -> str:
    hour, minute = local.split(":")
    return f"{int(minute)} {int(hour)} * * *"


@each_zone
def test_a_local_time_that_does_not_exist_fires_once_at_the_end_of_the_gap(zone: Zone) -> None:
    assert fired(cron_of(zone.gap), zone.name) == zone.daily(zone.gap, zone.exceptions(zone.gap_ends))


@each_zone
def test_a_local_time_that_exists_twice_fires_the_first_time(zone: Zone) -> None:
    assert fired(cron_of(zone.twice), zone.name) == zone.daily(zone.twice, zone.exceptions(zone.first))


@each_zone
@pytest.mark.parametrize(("cron", "hours"), [("*/30 * * * *", 1), ("0 */2 * * *", 2)])
def test_an_hour_field_with_a_star_follows_elapsed_time(zone: Zone, cron: str, hours: int) -> None:
    for change in map(at, zone.changes):
        # Every half hour of UTC, around the change, at which a clock of the zone shows what matches.
        halves = [change + timedelta(minutes=30 * number) for number in range(-47, 49)]
        locals_ = [(time, time + zone.offset(time)) for time in halves]
        matching = [time for time, local in locals_ if hours == 1 or (local.minute == 0 and local.hour % hours == 0)]

        times = Timing(cron=cron, zone=zone.name).list_after(change - timedelta(days=1), len(matching))

        assert times == matching


def test_minutes_of_an_hour_that_does_not_exist_fire_once() -> None:
    times = Timing(cron="*/20 2 * * *", zone="Europe/Berlin").list_after(at("2026-03-28T12:00"), 4)

    assert times == [*map(at, ("2026-03-29T01:00", "2026-03-30T00:00", "2026-03-30T00:20", "2026-03-30T00:40"))]


@pytest.mark.parametrize(
    ("cron", "days"),
    [
        ("0 0 13 * FRI", ["01-02", "01-09", "01-13", "01-16", "01-23"]),  # one of both, as in cron
        ("0 0 1 JAN,MAR *", ["01-01", "03-01"]),
        ("0 0 */10 * *", ["01-01", "01-11", "01-21", "01-31", "02-01"]),
        ("0 0 */2 * MON", ["01-05", "01-19", "02-09"]),  # a star: both
        ("0 0 * * 7", ["01-04", "01-11", "01-18"]),
        ("@weekly", ["01-04", "01-11", "01-18"]),
        ("@monthly", ["01-01", "02-01"]),
    ],
)
def test_day_fields_combine_as_in_cron(cron: str, days: list[str]) -> None:
    found = Timing(cron=parse_cron(cron)).list_after(START - timedelta(seconds=1), len(days))

    assert [f"{time:%m-%d}" for time in found] == days


def test_an_interval_is_counted_from_its_base_and_ends() -> None:
    timing = Timing(every_s=90, base=at("2026-01-01T00:00:07"), ends_at=at("2026-01-01T00:04"))

    assert timing.list_after(START, 9) == [START + timedelta(seconds=second) for second in (7, 97, 187)]
    assert timing.last_until(at("2026-01-01T00:00:07"), END) == START + timedelta(seconds=187)


def test_a_leap_day_is_found_and_the_last_one_too() -> None:
    timing = Timing(cron="0 0 29 2 *")

    assert timing.next_after(at("2096-03-01")) == at("2104-02-29")
    assert timing.last_until(at("2024-02-29"), at("2027-12-01")) == at("2024-02-29")


@pytest.mark.parametrize(
    "cron", ["* * * *", "61 * * * *", "0 24 * * *", "@reboot", "0 0 31 4 *", "x " * 5, "0 0 0 * *"]
)
def test_what_is_no_cron_expression_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match=r"must be|five fields|unknown"):
        parse_cron(cron)


def test_expressions_are_explained() -> None:
    assert explain_cron(parse_cron("30 2 * * mon-fri")) == "At 02:30 on Monday through Friday"
