"""The audit in the admin is read, and nothing else."""

import pytest
from django.test import Client

from runqy.audit.models import AuditRecord
from runqy.audit.operations import record

pytestmark = pytest.mark.usefixtures("configuration")

PAGE = "/admin/audit/auditrecord/"


@pytest.fixture
def row(configuration: None) -> AuditRecord:
    """Append a record and return it."""
    changes = {"max_retry": (3, 7), "value": "changed"}
    return record(action="queue.updated", object_kind="queue", object_name="<mail>", changes=changes)


def test_records_are_listed_found_and_shown_field_by_field(admin_client: Client, row: AuditRecord) -> None:
    assert "&lt;mail&gt;" in admin_client.get(f"{PAGE}?q=mail").content.decode()
    assert "&lt;mail&gt;" not in admin_client.get(f"{PAGE}?q=other").content.decode()

    shown = admin_client.get(f"{PAGE}{row.pk}/change/").content.decode()

    assert "max_retry: 3 → 7" in shown
    assert "value: changed" in shown


def test_nobody_adds_changes_or_deletes_one(admin_client: Client, row: AuditRecord) -> None:
    pages = ("add/", f"{row.pk}/change/", f"{row.pk}/delete/")

    assert [admin_client.post(PAGE + page, {"post": "yes"}).status_code for page in pages] == [403] * 3
    action = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    admin_client.post(PAGE, action)
    assert AuditRecord.objects.count() == 1
