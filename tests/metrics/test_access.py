"""Who may read /metrics."""

import json
from typing import Any

import pytest
from django.test import Client

from runqy.accounts.operations import create_api_key
from runqy.core.api_keys import Role
from runqy.errors import ApiKeyInvalid
from tests.api.client import ApiClient

pytestmark = pytest.mark.usefixtures("configuration")

TOKEN = "token-for-metrics-that-nobody-can-guess"


def status(address: str = "10.0.0.9", key: str = "", **headers: str) -> int:
    """Return the status of a request from an address."""
    sent = headers | ({"Authorization": f"Bearer {key}"} if key else {})
    found: int = Client(REMOTE_ADDR=address).get("/metrics", headers=sent).status_code
    return found


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.9", ""])
def test_no_address_opens_the_page(address: str) -> None:
    assert status(address) == 401
    assert status(address, **{"X-Forwarded-For": "127.0.0.1"}) == 401
    assert status(address, key="wrong") == 401


def test_a_setting_opens_the_page_to_everyone(settings: Any) -> None:
    settings.RUNQY_METRICS_PUBLIC = True

    assert status("10.0.0.9") == 200


def test_the_token_of_the_environment_opens_only_the_metrics(settings: Any, each_plane: str) -> None:
    settings.RUNQY_METRICS_TOKEN = TOKEN

    assert status(key=TOKEN) == 200
    assert ApiClient(TOKEN).get("/api/limits").status_code == 403
    assert ApiClient(TOKEN).get("/queue/some-id").status_code == 403
    assert ApiClient(TOKEN).post("/queue/add", {"queue": "mail", "data": {}}).status_code == 403


def test_an_administrator_of_a_queue_does_not_see_the_numbers_of_all() -> None:
    key = create_api_key(name="team", role=Role.ADMIN, queues=["mail"]).plain

    assert status(key=key) == 403


def test_a_key_for_metrics_cannot_be_limited_to_queues() -> None:
    with pytest.raises(ApiKeyInvalid, match="role metrics"):
        create_api_key(name="prometheus", role=Role.METRICS, queues=["mail"])


def test_the_schema_describes_the_metrics() -> None:
    schema = json.loads(ApiClient().get("/api/schema/?format=json").content)

    operation = schema["paths"]["/metrics"]["get"]
    assert "text/plain" in operation["responses"]["200"]["content"]
    assert {} not in operation["security"]
