"""GET /api/alerts."""

from datetime import timedelta

import pytest

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.core.api_keys import Role
from tests.alerts.observations import NOW
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture(autouse=True)
def _alerts(configuration: None) -> None:
    """Store a resolved alert, two open ones and a condition that has not lasted long enough."""
    kind = AlertKind.FAILURE_RATE
    store_findings([Finding(kind=kind, subject="old", queue="old", message="old")], now=NOW - timedelta(days=1))
    findings = [
        Finding(kind=kind, subject="mail", queue="mail", message="mail"),
        Finding(kind=AlertKind.WORKER_MISSING, subject="w", message="worker"),
        Finding(kind=AlertKind.NO_READY_WORKER, subject="mail", queue="mail", message="brief", for_s=60),
    ]
    store_findings(findings, now=NOW)


@pytest.mark.parametrize(
    ("query", "messages"),
    [
        ("", ["worker", "mail"]),
        ("?state=resolved", ["old"]),
        ("?state=all", ["worker", "mail", "old"]),
        ("?queue=mail", ["mail"]),
        ("?level=warning", ["worker"]),
        ("?level=critical&state=all", ["mail", "old"]),
        (f"?state=all&from={(NOW - timedelta(hours=1)).strftime('%Y-%m-%dT%H:%M:%SZ')}", ["worker", "mail"]),
    ],
)
def test_open_alerts_are_listed_by_default(query: str, messages: list[str]) -> None:
    response = ApiClient(ADMIN_KEY).get(f"/api/alerts{query}")

    assert [alert["message"] for alert in response.json()["alerts"]] == messages


def test_pages_follow_each_other() -> None:
    client = ApiClient(ADMIN_KEY)
    first = client.get("/api/alerts?state=all&limit=2").json()

    second = client.get(first["next"]).json()

    assert [alert["message"] for alert in first["alerts"] + second["alerts"]] == ["worker", "mail", "old"]
    assert second["next"] is None


def test_a_key_limited_to_queues_sees_only_their_alerts() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    created = create_api_key(name="limited", role=Role.ADMIN, queues=["mail"])

    response = ApiClient(created.plain).get("/api/alerts?state=all")

    assert [alert["message"] for alert in response.json()["alerts"]] == ["mail"]


@pytest.mark.parametrize("state", ["closed", ""])
def test_an_unknown_state_is_an_error_that_lists_the_choices(state: str) -> None:
    response = ApiClient(ADMIN_KEY).get(f"/api/alerts?state={state}")

    assert response.status_code == 400
    assert response.json()["errors"] == ["state: Must be one of open, resolved, all."]
