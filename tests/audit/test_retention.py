"""Old records are removed from the beginning of the chain, and only by the setting."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from runqy.audit import operations, retention, triggers
from runqy.audit.models import AuditHead, AuditRecord
from runqy.audit.operations import record
from runqy.audit.queries import verify_chain, verify_record
from runqy.audit.retention import remove_old_records

pytestmark = pytest.mark.usefixtures("configuration")

KEPT = timedelta(days=365)


@pytest.fixture(autouse=True)
def _guarded(configuration: None, settings: Any) -> Iterator[None]:
    """Keep records for a year, and let the database refuse changes, as it does outside of tests."""
    settings.RUNQY_AUDIT_KEPT_S = KEPT.total_seconds()
    triggers.install(connection)
    yield
    triggers.remove(connection)


def append(monkeypatch: pytest.MonkeyPatch, *ages: timedelta) -> None:
    """Append records of these ages."""
    now = timezone.now()
    for number, age in enumerate(ages):
        with monkeypatch.context() as patched:
            patched.setattr(operations.timezone, "now", lambda at=now - age: at)
            record(action="queue.paused", object_kind="queue", object_name=f"q{number}")


def names() -> list[str]:
    return list(AuditRecord.objects.order_by("number").values_list("object_name", flat=True))


def test_records_older_than_the_setting_are_removed_and_the_chain_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, KEPT * 3, KEPT * 2, KEPT / 2, timedelta())

    assert remove_old_records() == 2

    assert names() == ["q2", "q3", "audit"]
    assert verify_chain().breaks == []
    assert all(verify_record(row) for row in AuditRecord.objects.all())
    assert remove_old_records() == 0
    call_command("verify_audit")


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
    assert verify_chain().breaks == []


def test_without_the_setting_nothing_is_removed(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.RUNQY_AUDIT_KEPT_S = 0
    append(monkeypatch, KEPT * 2)

    assert remove_old_records() == 0


def test_an_old_record_behind_a_kept_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, timedelta(), KEPT * 2)

    assert remove_old_records() == 0


def test_records_that_something_else_removed_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    append(monkeypatch, KEPT * 2, timedelta(), timedelta())
    remove_old_records()
    with connection.cursor() as cursor:
        with pytest.raises(DatabaseError, match="only ever appended"), transaction.atomic():
            cursor.execute("DELETE FROM audit_auditrecord WHERE number = 2")
        AuditHead.objects.update(removed=2)
        cursor.execute("DELETE FROM audit_auditrecord WHERE number = 2")

    assert verify_chain().breaks == ["Records 1 to 2 are missing."]
    assert not verify_record(AuditRecord.objects.get(number=3))
