"""The admin pages of alerts and rules."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.models import Alert, AlertRule
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from runqy.audit.models import AuditRecord
from tests.queues.samples import spec
from tests.support.staff import staff_client

pytestmark = pytest.mark.usefixtures("configuration")
LIST, RULES = "/admin/alerts/alert/", "/admin/alerts/alertrule/"


def store(message: str, subject: str, *, is_over: bool = False, kind: AlertKind = AlertKind.FAILURE_RATE) -> Alert:
    now = timezone.now()
    store_findings([Finding(kind=kind, subject=subject, queue=subject, message=message)], now=now - timedelta(hours=1))
    if is_over:
        Alert.objects.filter(subject=subject).update(resolved_at=now)
    return Alert.objects.get(subject=subject)


def test_the_list_shows_open_alerts_by_default() -> None:
    store("Mail is over.", "mail", is_over=True)
    store("Post goes on.", "post")
    viewer = staff_client("viewer")

    default, resolved, everything = (
        viewer.get(f"{LIST}{query}").content.decode() for query in ("", "?state=resolved", "?state=all")
    )

    assert ("Post goes on." in default, "Mail is over." in default) == (True, False)
    assert ("Post goes on." in resolved, "Mail is over." in resolved) == (False, True)
    assert ("Post goes on." in everything, "Mail is over." in everything) == (True, True)


def test_show_all_leads_to_resolved_alerts_too() -> None:
    store("Mail is over.", "mail", is_over=True)
    viewer = staff_client("viewer")

    found, nothing, everything = (
        viewer.get(f"{LIST}{query}").content.decode() for query in ("?state=resolved", "?q=none", "?state=all")
    )

    assert [page.count('href="?state=all">Show all') for page in (found, everything)] == [1, 0]
    assert 'href="?state=all" class=' in nothing


@pytest.mark.parametrize(("query", "tab"), [("", "Open"), ("?state=resolved", "Resolved"), ("?state=all", "All")])
def test_the_state_is_a_tab(query: str, tab: str) -> None:
    page = staff_client("viewer").get(f"{LIST}{query}").content.decode()

    assert re.findall(r'aria-current="page">([^<]*)</a>', page) == [tab]
    assert ("No open alerts" in page) is (tab == "Open")


def test_an_alert_has_a_page_with_its_meaning_and_a_link_to_its_cause() -> None:
    alert = store("Queue mail has 1 pending task and no ready worker.", "mail", kind=AlertKind.NO_READY_WORKER)

    page = staff_client("viewer").get(f"{LIST}{alert.pk}/change/").content.decode()

    assert "are pending in sub-queues that no ready worker serves." in page
    assert 'href="/admin/workers/worker/"' in page


def test_a_configurator_changes_the_threshold_of_a_queue() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    queue = Queue.objects.get()
    form = {"kind": "failure_rate", "queue": queue.pk, "is_enabled": "on", "threshold": "35", "for_s": "2m"}

    response = staff_client("configurator").post(f"{RULES}add/", form)

    assert response.status_code == 302, response.content.decode()
    rule = AlertRule.objects.get()
    assert (rule.queue, rule.threshold, rule.for_s) == (queue, 35, 120)
    assert AuditRecord.objects.filter(action="alert_rule.created", object_name="failure_rate/mail").exists()
    page = staff_client("viewer").get(RULES).content.decode()
    assert ("35 %" in page, "1 pending task<" in page, "after 2 min" in page) == (True, True, True)


def test_the_form_of_a_rule_says_its_unit_and_defaults() -> None:
    oldest = AlertRule.objects.create(kind="oldest_pending")
    failed = AlertRule.objects.create(kind="worker_start_failed")
    configurator = staff_client("configurator")

    new, one, other = (
        configurator.get(f"{RULES}{path}").content.decode()
        for path in ("add/", f"{oldest.pk}/change/", f"{failed.pk}/change/")
    )

    assert "Oldest pending task: seconds, or a duration such as 10m; Failure rate: percent" in new
    assert "In seconds, or a duration such as 10m. Empty: the default, 10 min." in one
    assert ("id_threshold" in one, "id_threshold" in other, "Empty: the default, at once." in other) == (
        True,
        False,
        True,
    )


def test_the_rule_and_the_queue_of_stored_settings_do_not_change() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    rule = AlertRule.objects.create(kind="oldest_pending", threshold=5)
    form = {"kind": "failure_rate", "queue": Queue.objects.get().pk, "is_enabled": "on", "threshold": "1h30m"}

    assert staff_client("configurator").post(f"{RULES}{rule.pk}/change/", form).status_code == 302

    rule.refresh_from_db()
    assert (rule.kind, rule.queue, rule.threshold) == ("oldest_pending", None, 5400)
    page = staff_client("configurator").get(f"{RULES}{rule.pk}/change/").content.decode()
    assert ("all queues" in page, 'value="1h30m"' in page) == (True, True)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"kind": "worker_missing", "threshold": "3"}, "has no threshold. Leave this empty."),
        ({"kind": "failure_rate", "threshold": "-1"}, "Ensure this value is greater than or equal to 0."),
        ({"kind": "configuration_not_published", "with_queue": True}, "has one setting for all queues."),
        ({"kind": "failure_rate", "threshold": "5m"}, "Enter a number."),
        ({"kind": "oldest_pending", "threshold": "soon"}, "is not a duration such as"),
        ({"kind": "failure_rate", "queue": "mail"}, "Select a valid choice."),
        ({"kind": "oldest_pending"}, "This rule already has settings for all queues."),
    ],
)
def test_wrong_settings_are_refused_with_a_reason(form: dict[str, object], message: str) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    AlertRule.objects.create(kind="oldest_pending")
    queue = Queue.objects.get().pk if form.pop("with_queue", False) else ""

    response = staff_client("admin").post(f"{RULES}add/", {"queue": queue, **form})

    assert message in response.content.decode()
    assert AlertRule.objects.count() == 1


def test_a_viewer_changes_no_rules() -> None:
    assert staff_client("viewer").post(f"{RULES}add/", {"kind": "oldest_pending"}).status_code == 403
    assert not AlertRule.objects.exists()
