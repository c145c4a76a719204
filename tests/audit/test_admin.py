"""The audit in the admin is searched, read and taken along, and nothing else."""

import csv
import html
import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from runqy.accounts.operations import create_api_key
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.history import records_url
from runqy.audit.models import AuditRecord
from runqy.audit.operations import PendingRecord, move_pending, record, sign_pending
from runqy.audit.queries import search_condition
from runqy.broker.streams.audit_stream import append_record
from runqy.redis_connection import get_broker
from tests.configuration.support import away
from tests.support.staff import client_of
from vaults.operations import create_vault, delete_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

PAGE = "/admin/audit/auditrecord/"
CAROL = Actor(kind=ActorKind.USER, name="carol", id="7", address="203.0.113.9", request_id="from-a-browser")


def add(action: str = "queue.updated", name: str = "mail", **changes: Any) -> AuditRecord:
    """Append a record."""
    return record(action=action, object_kind=action.partition(".")[0], object_name=name, changes=changes)


@pytest.fixture
def found(admin_client: Client) -> Callable[[str], list[int]]:
    """Return what finds the numbers of the records that a query lists, as they are listed."""

    def numbers(query: str) -> list[int]:
        response = admin_client.get(PAGE + query)
        assert response.status_code == 200
        return [row.number for row in response.context["cl"].result_list]

    return numbers


def test_records_are_found_by_object_actor_action_address_request_and_number(found: Any) -> None:
    add(name="mail")
    with actor_context(CAROL):
        add("vault.created", "api-keys")

    assert found("") == [2, 1]
    assert [found(f"?q={text}") for text in ("MAI", "carol", "vault.cre", "203.0.113", "browser", "1", "%232")] == [
        [1],
        [2],
        [2],
        [2],
        [2],
        [2, 1],  # the address has a 1 too
        [2],
    ]
    assert found("?q=carol+api-keys") == [2]
    assert found("?q=carol+mail") == []


def test_filters_narrow_the_list_down_and_combine(found: Any) -> None:
    add("queue.paused", "mail")
    add("vault.created", "mail")
    add("vault_entry.set", "mail/TOKEN")
    with actor_context(CAROL):
        add("vault.deleted", "mailbox")

    assert found("?kind=vault") == [4, 3, 2]
    assert found("?kind=vault_entry") == [3]
    assert found("?object=mail") == [3, 2, 1]
    assert found("?kind=vault&object=mail") == [3, 2]
    assert found("?object=mailbox&object=mail/TOKEN") == [4, 3]
    assert found("?action=queue.paused") == [1]
    assert found("?by=user&q=mail&kind=&at_from=") == [4]


def test_the_period_includes_its_last_day_and_an_invalid_date_finds_nothing(found: Any) -> None:
    for day in (1, 2, 3):
        row = add()
        with connection.cursor() as cursor:
            timestamp = datetime(2026, 11, day, 23, 59, tzinfo=UTC)
            cursor.execute("UPDATE audit_auditrecord SET at = %s WHERE number = %s", [timestamp, row.number])

    assert found("?at_from=2026-11-02&at_to=2026-11-02") == [2]
    assert found("?at_to=2026-11-02") == [2, 1]
    assert found("?at_from=2026-11-02") == [3, 2]
    assert found("?at_from=yesterday") == []


def test_pages_follow_one_another_without_counting(found: Any, admin_client: Client) -> None:
    for _ in range(120):
        add()

    with CaptureQueriesContext(connection) as queries:
        pages = [found(f"?q=mail&p={number}") for number in range(1, 5)]

    assert pages == [list(range(120, 70, -1)), list(range(70, 20, -1)), list(range(20, 0, -1)), []]
    assert not any("COUNT(" in query["sql"] for query in queries)
    content = admin_client.get(f"{PAGE}?q=mail&p=2").content.decode()
    assert 'href="?p=1&amp;q=mail"' in content
    assert 'href="?p=3&amp;q=mail"' in content
    assert "9999999999" not in content


def test_a_page_lists_changes_by_field(admin_client: Client) -> None:
    row = add(
        name="<mail>",
        max_retry=(3, 7),
        value="changed",
        vaults=(["a", "b"], ["b", "<c>"]),
        is_enabled=(True, None),
        sub_queues=([], [{"name": "high", "priority": 9}]),
        active_timeout_s=(None, 5400),
        expires_at=(None, "2026-11-26 13:48:31.321660+00:00"),
        branch=(None, None),
    )

    content = admin_client.get(f"{PAGE}{row.pk}/change/").content.decode()

    table = content[content.index('id="changes"') : content.index("</table>", content.index('id="changes"'))]
    lines = [" ".join(re.sub(r"<[^>]+>", " ", line).split()) for line in table.split("<tr")[2:]]
    assert [line.partition("> ")[2] or line for line in lines] == [
        "active timeout none 1 h 30 min",
        "expires none 2026-11-26 13:48:31",
        "enabled yes none",
        "max retry 3 7",
        "sub queues none + name high, priority 9",
        "value changed; values are not recorded",
        "vaults - a + &lt;c&gt;",
    ]
    assert "<mail>" not in content
    exact = html.unescape(content[content.index("runqy-json") :])
    assert '"new": "2026-11-26 13:48:31.321660+00:00"' in exact
    assert '"new": 5400' in exact


def test_the_list_is_in_words(admin_client: Client) -> None:
    create_api_key(name="laptop", role="client", queues=["mail"])
    add("alert_rule.updated", "failure_rate/mail", threshold=(20.0, 40.0), vaults=(["a"], ["a", "b"]))
    add("task.cancellation_requested", "t1")

    content = re.sub(r"<[^>]+>", " ", admin_client.get(PAGE).content.decode())

    rows = " ".join(content.split())
    assert "cancellation requested task t1 - " in rows
    assert "updated alert rule failure rate of mail threshold: 20.0 → 40.0; vaults: + b" in rows
    assert re.search(r"created API key laptop \(id \d+\) name: laptop; queues: mail; role: client", rows)


def test_the_page_of_a_record_is_in_words(admin_client: Client) -> None:
    row = add("alert_rule.updated", "failure_rate/mail", threshold=(20.0, 40.0))

    content = admin_client.get(f"{PAGE}{row.pk}/change/").content.decode()

    assert f"{row.number}: alert rule failure rate of mail, updated by {row.actor_name}" in content
    assert "alert_rule.updated" not in content
    assert "failure_rate" not in re.sub(r'href="[^"]+"', "", content)


def test_a_record_leads_to_its_object_and_an_object_to_its_records(admin_client: Client, found: Any) -> None:
    vault = create_vault(name="api-keys")
    set_entry(vault="api-keys", key="TOKEN", value="a-value")
    key = create_api_key(name="shop, mail", role="client").row
    add("queue.updated", "gone")
    paths = {
        row.action: admin_client.get(f"{PAGE}{row.pk}/change/").content.decode() for row in AuditRecord.objects.all()
    }

    page = f'href="/admin/vaults/vault/{vault.pk}/change/"'
    assert page in paths["vault.created"]
    assert page in paths["vault_entry.set"]
    assert f'href="/admin/accounts/apikey/{key.pk}/change/"' in paths["api_key.created"]
    assert "Deleted, or without a page." in paths["queue.updated"]
    assert found(records_url("vault", "api-keys").removeprefix(PAGE)) == [2, 1]
    assert found(records_url("api_key", f"{key.pk} shop, mail").removeprefix(PAGE)) == [3]
    delete_vault(name="api-keys")
    (created,) = AuditRecord.objects.filter(action="vault.created")
    assert page not in admin_client.get(f"{PAGE}{created.pk}/change/").content.decode()


def test_what_is_listed_is_exported_and_no_cell_is_a_formula(admin_client: Client) -> None:
    add(name="other")
    with actor_context(CAROL):
        for name in ("=1+1", "+1", "-1", "@SUM(1)", "mail"):
            add(name=name, max_retry=(3, 7), value="changed")

    response = admin_client.get(f"{PAGE}export/?by=user")

    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"].startswith('attachment; filename="audit-')
    rows = list(csv.DictReader(io.StringIO(b"".join(response.streaming_content).decode())))
    assert [row["object_name"] for row in rows] == ["mail", "'@SUM(1)", "'-1", "'+1", "'=1+1"]
    assert rows[0]["changes"] == "max_retry: 3 → 7\nvalue: changed"
    assert (rows[0]["number"], rows[0]["actor_name"], rows[0]["address"]) == ("6", "carol", "203.0.113.9")


def test_a_late_record_shows_when_it_was_recorded(admin_client: Client) -> None:
    happened = datetime(2026, 11, 26, 3, 4, 5, tzinfo=UTC)
    late = PendingRecord(
        event_id="e1", at=happened, actor=CAROL, action="queue.paused", object_kind="queue", object_name="mail"
    )
    get_broker().run(append_record(sign_pending(late)))
    assert "1 record waits in Redis and will be moved here by maintenance." in text(admin_client, PAGE)

    move_pending()

    row = AuditRecord.objects.get()
    recorded = f"{row.recorded_at:%Y-%m-%d %H:%M:%S}"
    assert f"2026-11-26 03:04:05 (recorded {recorded} )" in text(admin_client, PAGE)
    assert "in Redis" not in text(admin_client, PAGE)
    assert f"{recorded} , after waiting in Redis" in text(admin_client, f"{PAGE}{row.pk}/change/")
    lines = b"".join(admin_client.get(f"{PAGE}export/").streaming_content).decode()
    (exported,) = csv.DictReader(io.StringIO(lines))
    assert (exported["at"], exported["recorded_at"]) == (happened.isoformat(), row.recorded_at.isoformat())


def test_without_redis_the_list_warns_of_missing_records(admin_client: Client, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    assert "Redis cannot be reached. Records" in text(admin_client, PAGE)


def text(client: Client, path: str) -> str:
    """Return the text of a page."""
    return " ".join(re.sub(r"<[^>]+>", " ", client.get(path).content.decode()).split())


def test_an_export_has_all_records_and_not_one_query_for_each(admin_client: Client) -> None:
    for _ in range(1203):
        add()

    with CaptureQueriesContext(
        connection,
    ) as queries:
        lines = b"".join(admin_client.get(f"{PAGE}export/").streaming_content).splitlines()

    assert len(lines) == 1204
    assert len(queries) < 12


def test_records_cannot_be_added_changed_or_deleted(admin_client: Client) -> None:
    row = add()
    pages = ("add/", f"{row.pk}/change/", f"{row.pk}/delete/")

    assert [admin_client.post(PAGE + page, {"post": "yes"}).status_code for page in pages] == [403] * 3
    action = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    admin_client.post(PAGE, action)
    assert AuditRecord.objects.count() == 1


@pytest.mark.parametrize("digits", [19, 5000])  # beyond a BigIntegerField, and beyond what Python converts
def test_a_long_number_finds_nothing(digits: int) -> None:
    add()

    assert list(AuditRecord.objects.filter(search_condition("9" * digits))) == []


def test_only_those_who_may_read_the_audit_see_and_export_it() -> None:
    row = add()
    carol = User.objects.create_user("carol", is_staff=True)
    client = client_of(carol)
    pages = ("", f"{row.pk}/change/", "export/")
    assert [client.get(PAGE + page).status_code for page in pages] == [403] * 3

    carol.user_permissions.add(Permission.objects.get(codename="view_auditrecord"))

    assert [client.get(PAGE + page).status_code for page in pages] == [200] * 3
