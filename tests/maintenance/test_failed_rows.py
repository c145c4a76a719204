"""What one row costs the others of its duty: nothing. The duties of schedules have a module of their own."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
import structlog
from django.db import IntegrityError, OperationalError
from django.utils import timezone

from runqy.errors import BrokerUnavailable, ConfigurationUnavailable, QueueNotFound
from runqy.maintenance.failed_rows import FORGOTTEN_AFTER, RowFailures, list_failed_rows
from runqy.maintenance.models import FailedRow

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


class Duty:
    """Handles numbers, of which some raise."""

    def __init__(self, *odd: int, error: Exception | None = None) -> None:
        self.odd, self.error = set(odd), error or ZeroDivisionError("secret")
        self.handled: list[int] = []
        self.failures = RowFailures("number")

    def run(self, count: int = 8) -> list[int]:
        """Run a pass; return what was handled in it."""
        self.handled = []
        self.failures.begin_pass()
        self.failures.handle(range(count), self._handle, describe=lambda n: (n, f"n{n}", "mail" if n == 3 else ""))
        return sorted(self.handled)

    def _handle(self, numbers: Sequence[int]) -> None:
        if self.odd.intersection(numbers):
            raise self.error
        self.handled += numbers


def end_pauses(**late: float) -> None:
    FailedRow.objects.update(paused_until=timezone.now() - timedelta(**late))


def test_the_rows_that_raise_are_found_among_many_and_paused(logged: list[Any]) -> None:
    duty = Duty(3, 6)

    passes = [duty.run(), duty.run()]

    assert passes == [[0, 1, 2, 4, 5, 7]] * 2
    failed = [(row.key, row.name, row.queue, row.error, row.times) for row in list_failed_rows(limit=9)]
    assert failed == [("3", "n3", "mail", "ZeroDivisionError", 1), ("6", "n6", "", "ZeroDivisionError", 1)]
    assert [(entry["event"], entry["key"]) for entry in logged] == [("row_failed", "3"), ("row_failed", "6")]


def test_the_pause_grows_from_a_minute_to_an_hour_and_ends_with_a_success(logged: list[Any]) -> None:
    duty, pauses_s = Duty(3), []
    for _ in range(8):
        duty.run()
        row = FailedRow.objects.get()
        pauses_s.append(round((row.paused_until - timezone.now()).total_seconds(), -1))
        end_pauses()

    duty.odd.clear()
    handled = duty.run()
    duty.odd.add(3)
    duty.run()

    assert pauses_s == [pytest.approx(each, abs=30) for each in (60, 120, 240, 480, 960, 1920, 3600, 3600)]
    assert handled == list(range(8))
    assert [(entry["event"], entry.get("failures")) for entry in logged[-2:]] == [
        ("row_recovered", 8),
        ("row_failed", None),
    ]
    assert FailedRow.objects.get().times == 1


def test_another_process_leaves_the_row_out_too_and_a_user_who_changes_it_ends_that() -> None:
    Duty(3).run()
    other = Duty()

    before = other.run()
    other.failures.forget(3)

    assert (before, other.run()) == ([0, 1, 2, 4, 5, 6, 7], list(range(8)))


def test_a_row_that_is_not_tried_again_is_forgotten() -> None:
    duty = Duty(3)
    duty.run()
    end_pauses(seconds=FORGOTTEN_AFTER.total_seconds() + 60)

    duty.run(count=2)

    assert (list_failed_rows(limit=9), FailedRow.objects.count()) == ([], 0)


@pytest.mark.parametrize(
    "error", [OperationalError("locked"), BrokerUnavailable("away"), ConfigurationUnavailable("away")]
)
def test_errors_of_database_and_redis_are_of_no_row(error: Exception) -> None:
    duty = Duty(3, error=error)

    with pytest.raises(type(error)):
        duty.run()
    with pytest.raises(type(error)), duty.failures.isolate(3):
        raise error

    assert not FailedRow.objects.exists()


@pytest.mark.parametrize("error", [IntegrityError("unique"), QueueNotFound("no queue")])
def test_errors_about_the_values_of_a_row_are_its_own(error: Exception) -> None:
    duty = Duty(3, error=error)

    assert duty.run() == [0, 1, 2, 4, 5, 6, 7]


def test_a_pass_without_rows_reads_nothing(django_assert_num_queries: Any) -> None:
    duty = Duty()
    Duty(3).run()

    with django_assert_num_queries(0):
        duty.run(count=0)

    assert duty.run() == [0, 1, 2, 4, 5, 6, 7]
