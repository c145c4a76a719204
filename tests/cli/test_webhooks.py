"""The commands `runqy webhook`, against the application."""

import json

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.cli.errors import ExitCode
from tests.cli.test_administration import Run, admin, outputs
from tests.queues.samples import spec
from tests.webhooks.receiver import Receiver, receiver, send_due

__all__ = ["admin", "receiver"]

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_endpoint_is_created_tested_changed_and_deleted(admin: Run, receiver: Receiver) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)

    (secret,) = outputs([admin("webhook", "create", receiver.url, "-q", "mail", "-H", "X-A: 1")])
    assert secret.startswith("whsec_")
    (listed,) = outputs([admin("webhook", "list", "-o", "name")])
    endpoint = listed.strip()
    shown, _ = outputs([admin("webhook", "show", endpoint, "-o", "json"), admin("webhook", "test", endpoint)])
    assert json.loads(shown)["headers"] == ["X-A"]
    send_due()
    deliveries, disabled, enabled, rotated = outputs(
        [
            admin("webhook", "deliveries", endpoint),
            admin("webhook", "disable", endpoint),
            admin("webhook", "enable", endpoint),
            admin("webhook", "rotate", endpoint),
        ]
    )
    assert "webhook.test" in deliveries
    assert "delivered" in deliveries
    assert (disabled.strip(), enabled.strip()) == (f"{receiver.url} disabled", f"{receiver.url} enabled")
    assert rotated.startswith("whsec_")
    resent, deleted = outputs(
        [admin("webhook", "resend", endpoint, "--failed"), admin("webhook", "delete", endpoint, "--force")]
    )
    assert (resent.strip(), deleted.strip()) == ("0 sent again", f"{endpoint} deleted")


def test_a_target_of_alerts_is_created_without_a_secret(admin: Run) -> None:
    printed = outputs(
        [
            admin(
                "webhook",
                "create",
                "--kind",
                "slack",
                "https://hooks.slack.com/services/T0/B0/abc",
                "--level",
                "critical",
            ),
            admin("webhook", "list"),
        ]
    )

    assert printed[0].endswith(" created\n")
    assert "slack\thttps://hooks.slack.com\t\talert.opened, alert.resolved" in printed[1]
    assert admin("webhook", "create", "--kind", "email", "--to", "ann@example.com").exit_code == ExitCode.FAILED


def test_the_secret_of_a_queue_is_printed_once(admin: Run) -> None:
    save_queue(spec=spec("mail", webhook_hosts=("hooks.example.com",)), source=QueueSource.API)

    shown, rotated = outputs([admin("webhook", "secret", "mail"), admin("webhook", "secret", "mail", "--rotate")])

    assert shown.startswith("whsec_")
    assert rotated != shown
    assert admin("webhook", "secret", "mail").exit_code == ExitCode.CONFLICT


@pytest.mark.parametrize(
    "arguments",
    [("create", "https://hooks.example.com", "-H", "X-A"), ("resend", "x"), ("resend", "x", "1", "--failed")],
)
def test_wrong_options_are_usage_errors(admin: Run, arguments: tuple[str, ...]) -> None:
    assert admin("webhook", *arguments).exit_code == ExitCode.USAGE
