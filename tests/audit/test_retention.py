"""Old records are removed, and only by the setting."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from runqy.audit import operations
from runqy.audit.models import AuditRecord
from runqy.audit.operations import record
from tests.support.maintenance_duties import delete_old_rows

pytestmark = pytest.mark.usefixtures("configuration")

KEPT = timedelta(days=365)


@pytest.fixture(autouse=True)
def _kept_for_a_year(configuration: None, settings: Any) -> None:
    settings.RUNQY_AUDIT_KEPT_S = KEPT.total_seconds()


def append(monkeypatch: pytest.MonkeyPatch, *ages: timedelta) -> None:
    """Append records of these ages."""
    now = timezone.now()
    for number, age in enumerate(ages):
        with monkeypatch.context() as patched:
            patched.setattr(operations.timezone, "now", lambda at=now - age: at)
            record(action="queue.paused", object_kind="queue", object_name=f"q{number}")


def remove(*, at_once: int = 1000) -> list[int]:
    """Remove old records. Return the number of each removal that is recorded, the first one first."""
    delete_old_rows(at_once=at_once)
    removals = AuditRecord.objects.filter(action="audit.removed").order_by("number")
    return [json.loads(removal.changes)["records"]["new"] for removal in removals]


def names() -> list[str]:
    return list(AuditRecord.objects.order_by("number").values_list("object_name", flat=True))


def test_records_older_than_the_setting_are_removed_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append(monkeypatch, KEPT * 3, KEPT * 2, KEPT / 2, timedelta())

    assert remove() == [2]

    assert names() == ["q2", "q3", "audit"]
    assert remove() == [2]


def test_what_is_old_for_less_than_a_day_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, KEPT + timedelta(hours=23), KEPT + timedelta(hours=1))

    assert remove() == []
    assert remove(at_once=2) == [2]


def test_removals_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, *[KEPT * 2] * 5)

    assert remove(at_once=2) == [2, 2, 1]

    assert names() == ["audit", "audit", "audit"]


def test_without_the_setting_nothing_is_removed(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.RUNQY_AUDIT_KEPT_S = 0
    append(monkeypatch, KEPT * 2)

    assert remove() == []


def test_an_old_record_that_was_stored_late_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, timedelta(), KEPT * 2)

    assert remove() == [1]

    assert names() == ["q0", "audit"]


def test_what_another_process_has_just_removed_is_not_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, *[KEPT * 2] * 5)

    def remove_first(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if sql.startswith('DELETE FROM "audit_auditrecord"'):
            execute(sql, *rest)
        return execute(sql, *rest)

    with connection.execute_wrapper(remove_first):
        assert remove() == []

    assert names() == []
