"""What is no longer kept is deleted; what cannot be deleted keeps nothing else."""

from typing import Any

import pytest
from django.db import DatabaseError
from django.db.models import QuerySet
from django.utils import timezone

from alerts.models import SUBJECT_MAX_LENGTH, Alert, QueueSnooze
from runqy import clock
from runqy.broker.broker import Broker
from runqy.maintenance import retention
from runqy.maintenance.models import FailedRow
from runqy.maintenance.retention import RetentionRunner, register_retention

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture(autouse=True)
def _only_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_registered", [])


def add_alerts(*subjects: str) -> None:
    now = timezone.now()
    for subject in subjects:
        Alert.objects.create(kind="x", subject=subject, level="warning", since=now, seen_at=now)


def find_alerts() -> QuerySet[Alert]:
    return Alert.objects.order_by("pk")


def left() -> list[str]:
    return list(Alert.objects.order_by("pk").values_list("subject", flat=True))


def test_rows_whose_deletion_raises_are_left_out_alone(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    add_alerts("a", "odd", "b", "c", "d")
    odd = Alert.objects.get(subject="odd").pk

    def delete(alerts: QuerySet[Alert]) -> None:
        keys = [alert.pk for alert in alerts]
        alerts.delete()
        if odd in keys:
            raise ValueError(odd)

    register_retention(Alert, find_alerts, delete)

    RetentionRunner().run_tick(single_broker)
    RetentionRunner().run_tick(single_broker)

    assert left() == ["odd"]
    assert [(row.kind, row.name) for row in FailedRow.objects.all()] == [("retention", f"Alert {odd}")]


def test_pages_of_rows_whose_deletion_raises_keep_no_row_after_them(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_alerts(*(f"odd{number}" for number in range(5)), "a", "b", "c")
    odd = set(Alert.objects.filter(subject__startswith="odd").values_list("pk", flat=True))
    for key in odd:  # a row of another kind is not left out for its key
        QueueSnooze.objects.create(queue=str(key), until=timezone.now())
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 2)

    def delete(alerts: QuerySet[Alert]) -> None:
        if odd.intersection(alert.pk for alert in alerts):
            raise ValueError
        alerts.delete()

    register_retention(Alert, find_alerts, delete)
    register_retention(QueueSnooze, QueueSnooze.objects.all)

    RetentionRunner().run_tick(single_broker)
    after_first = left()
    add_alerts("d")
    RetentionRunner().run_tick(single_broker)

    assert after_first == left() == [f"odd{number}" for number in range(5)]
    assert not QueueSnooze.objects.exists()
    assert set(FailedRow.objects.values_list("key", "times")) == {(f"Alert {key}", 1) for key in odd}


def test_a_row_whose_key_is_too_long_to_store_is_left_out_too(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["x" * SUBJECT_MAX_LENGTH, "y", "z"]
    for queue in names:
        QueueSnooze.objects.create(queue=queue, until=timezone.now())
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(clock, "monotonic_s", lambda: 0.0)

    def delete(snoozes: QuerySet[QueueSnooze]) -> None:
        if names[0] in [snooze.pk for snooze in snoozes]:
            raise ValueError
        snoozes.delete()

    register_retention(QueueSnooze, lambda: QueueSnooze.objects.order_by("queue"), delete)

    RetentionRunner().run_tick(single_broker)

    assert list(QueueSnooze.objects.values_list("queue", flat=True)) == names[:1]


def test_one_kind_of_rows_that_cannot_be_read_keeps_no_other(single_broker: Broker) -> None:
    add_alerts("a")

    def fail() -> QuerySet[Alert]:
        raise KeyError("alerts")

    register_retention(QueueSnooze, fail)
    register_retention(Alert, find_alerts)

    RetentionRunner().run_tick(single_broker)

    assert left() == []
    assert FailedRow.objects.get().name == "old rows of QueueSnooze"


def test_a_database_that_is_away_is_no_row_that_fails(single_broker: Broker) -> None:
    def fail() -> QuerySet[Alert]:
        raise DatabaseError("no such host")

    register_retention(Alert, fail)

    RetentionRunner().run_tick(single_broker)

    assert not FailedRow.objects.exists()


def test_rows_of_one_kind_leave_the_rest_to_the_next_tick_and_the_others_their_time(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_alerts("a", "b", "c")
    passed_s: list[float] = []
    monkeypatch.setattr(clock, "monotonic_s", lambda: sum(passed_s))
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 1)

    def delete(alerts: QuerySet[Any]) -> None:
        alerts.delete()
        passed_s.append(retention.KIND_MAX_S / 2)

    for queue in ("a", "b", "c"):
        QueueSnooze.objects.create(queue=queue, until=timezone.now())
    register_retention(Alert, find_alerts, delete)
    register_retention(QueueSnooze, QueueSnooze.objects.all, delete)

    RetentionRunner().run_tick(single_broker)

    assert left() == ["c"]
    assert QueueSnooze.objects.count() == 1


def test_a_tick_ends_although_nothing_can_be_deleted(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    add_alerts("odd")
    monkeypatch.setattr(clock, "monotonic_s", lambda: 0.0)
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 1)

    def fail(alerts: QuerySet[Alert]) -> None:
        raise ValueError(alerts)

    register_retention(Alert, find_alerts, fail)

    RetentionRunner().run_tick(single_broker)

    assert left() == ["odd"]
