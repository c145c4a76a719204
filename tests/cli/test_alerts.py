"""The commands `runqy alert`, against the application."""

import pytest
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.cli.errors import ExitCode
from tests.cli.test_administration import Run, admin, outputs
from tests.queues.samples import spec

__all__ = ["admin"]

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_alert_is_acknowledged_and_a_queue_snoozed_and_resumed(admin: Run) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    kind, names = AlertKind.FAILURE_RATE, ("mail", "post")
    findings = [Finding(kind=kind, subject=name, queue="mail", message=f"{name} fails.") for name in names]
    store_findings(findings, now=timezone.now())

    printed = outputs(
        [
            admin("alert", "acknowledge", str(Alert.objects.get(subject="post").pk), "--note", "On it."),
            admin("alert", "snooze", "-q", "mail", "--until", "2h", "--note", "Moving."),
            admin("alerts", "-o", "json"),
            admin("alert", "resume", "-q", "mail"),
        ]
    )

    assert [printed[index].strip() for index in (0, 1, 3)] == [
        "1 alert acknowledged",
        "1 alert snoozed",
        "2 alerts resumed",
    ]
    assert "On it." in printed[2]
    assert "Moving." in printed[2]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("acknowledge",), ExitCode.USAGE),
        (("snooze", "7", "-q", "mail", "--until", "2h"), ExitCode.USAGE),
        (("snooze", "-q", "mail", "--until", "tomorrow"), ExitCode.FAILED),
        (("resume", "7"), ExitCode.NOT_FOUND),
    ],
)
def test_errors_have_a_status(admin: Run, arguments: tuple[str, ...], status: ExitCode) -> None:
    assert admin("alert", *arguments).exit_code == status
