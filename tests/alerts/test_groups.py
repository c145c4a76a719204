"""Alerts are grouped by queue, and a cause hides its consequences."""

import re

import pytest
from django.utils import timezone

from alerts.acknowledgement import AlertSelection, acknowledge
from alerts.kinds import EXPLAINS, AlertKind, AlertLevel
from alerts.models import Alert
from alerts.operations import store_findings
from alerts.rules import RULES, Finding
from queues.models import QueueSource
from queues.operations import save_queue
from tests.queues.samples import spec
from tests.support.staff import staff_client

pytestmark = pytest.mark.usefixtures("configuration")


def store(*found: tuple[AlertKind, str]) -> None:
    store_findings(
        [Finding(kind=kind, subject=queue, queue=queue, message=f"{kind.value} of {queue}.") for kind, queue in found],
        now=timezone.now(),
    )


def listed() -> list[str]:
    page = staff_client("viewer", f"user{timezone.now().timestamp()}").get("/admin/alerts/alert/").content.decode()
    return re.findall(r"Queue \w+(?=</span>)|\w+ of \w+\.|Explains: [^<]*?\.(?=<)", re.sub(r"\s+", " ", page))


def test_the_most_urgent_queue_is_first_and_a_cause_names_what_it_hides() -> None:
    store(
        (AlertKind.SHARED_DEATHS, "alpha"),
        (AlertKind.OLDEST_PENDING, "mail"),
        (AlertKind.NO_READY_WORKER, "mail"),
        (AlertKind.SHARED_DEATHS, "mail"),
        (AlertKind.OLDEST_PENDING, "zoo"),
    )

    assert listed() == [
        *("Queue mail", "no_ready_worker of mail.", "Explains: Oldest pending task.", "shared_deaths of mail."),
        *("Queue alpha", "shared_deaths of alpha.", "Queue zoo", "oldest_pending of zoo."),
    ]


def test_a_cause_of_a_cause_hides_both_and_a_resolved_one_nothing() -> None:
    store((AlertKind.VAULT_UNREADABLE, "mail"), (AlertKind.NO_READY_WORKER, "mail"), (AlertKind.OLDEST_PENDING, "mail"))
    assert [line for line in listed() if " of " in line] == ["vault_unreadable of mail."]

    Alert.objects.filter(kind=AlertKind.VAULT_UNREADABLE).update(resolved_at=timezone.now())

    assert [line for line in listed() if " of " in line] == ["no_ready_worker of mail."]


def test_what_is_acknowledged_is_last() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    store((AlertKind.FAILURE_RATE, "mail"), (AlertKind.OLDEST_PENDING, "post"))

    acknowledge(AlertSelection(queue="mail"))

    assert [line for line in listed() if " of " in line] == ["oldest_pending of post.", "failure_rate of mail."]


def test_no_cause_is_less_urgent_than_what_it_hides() -> None:
    urgent = {kind for kind in AlertKind if RULES[kind].level is AlertLevel.CRITICAL}

    assert all(cause in urgent or not urgent.intersection(kinds) for cause, kinds in EXPLAINS.items())
