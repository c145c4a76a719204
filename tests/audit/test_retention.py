"""Old records are removed, and only by the setting."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from runqy.audit import operations, retention
from runqy.audit.models import AuditRecord
from runqy.audit.operations import record
from runqy.audit.retention import remove_old_records

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


def names() -> list[str]:
    return list(AuditRecord.objects.order_by("number").values_list("object_name", flat=True))


def test_records_older_than_the_setting_are_removed_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append(monkeypatch, KEPT * 3, KEPT * 2, KEPT / 2, timedelta())

    assert remove_old_records() == 2

    assert names() == ["q2", "q3", "audit"]
    removal = AuditRecord.objects.get(action="audit.removed")
    assert json.loads(removal.changes)["records"] == {"old": None, "new": 2}
    assert remove_old_records() == 0


def test_what_is_old_for_less_than_a_day_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, KEPT + timedelta(hours=23), KEPT + timedelta(hours=1))
    assert remove_old_records() == 0

    monkeypatch.setattr(retention, "REMOVED_AT_ONCE", 2)

    assert remove_old_records() == 2


def test_removals_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "REMOVED_AT_ONCE", 2)
    append(monkeypatch, *[KEPT * 2] * 5)

    assert [remove_old_records() for _ in range(4)] == [2, 2, 1, 0]

    assert names() == ["audit", "audit", "audit"]


def test_without_the_setting_nothing_is_removed(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.RUNQY_AUDIT_KEPT_S = 0
    append(monkeypatch, KEPT * 2)

    assert remove_old_records() == 0


def test_an_old_record_that_was_stored_late_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, timedelta(), KEPT * 2)

    assert remove_old_records() == 1

    assert names() == ["q0", "audit"]


def test_what_another_process_has_just_removed_is_not_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, *[KEPT * 2] * 5)

    def remove_first(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if sql.startswith('DELETE FROM "audit_auditrecord"'):
            execute(sql, *rest)
        return execute(sql, *rest)

    with connection.execute_wrapper(remove_first):
        assert remove_old_records() == 0

    assert names() == []
