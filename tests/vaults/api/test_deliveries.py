"""GET /api/vaults/{name}/deliveries."""

import json
from typing import Any

import pytest

from runqy.audit.actors import Actor, ActorKind, actor_context
from tests.api.client import ApiClient, problem
from tests.support.secret_leaks import SUITE
from vaults.access_log import record_delivery, store_deliveries
from vaults.models import VaultDelivery
from vaults.operations import create_vault, set_entry
from vaults.worker_secrets import get_worker_secrets

PATH = "/api/vaults/api-keys/deliveries"
WORKERS = ("w1", "w2", "w1", "w3", "w1")


@pytest.fixture
def client(configuration: None) -> ApiClient:
    """Return an administrator's client; there are five deliveries of a vault, to three workers."""
    create_vault(name="api-keys")
    set_entry(vault="api-keys", key="TOKEN", value=SUITE.secret())
    grants = get_worker_secrets(["api-keys"]).grants
    with actor_context(Actor(kind=ActorKind.KEY, name="gpu machines", id="7", address="10.0.0.7")):
        for worker_id in WORKERS:
            record_delivery(worker_id=worker_id, queue="inference", grants=grants)
    store_deliveries()
    return ApiClient()


def content(client: ApiClient, path: str) -> Any:
    """Return the content of a path, which may not be cached."""
    response = client.get(path)
    assert response.status_code == 200, response.content
    assert response["Cache-Control"] == "no-store"
    return json.loads(response.content)


def test_a_delivery_is_shown_with_versions_and_without_values(client: ApiClient) -> None:
    delivery = content(client, f"{PATH}?limit=1")["deliveries"][0]

    assert delivery.pop("delivered_at").endswith("Z")
    assert delivery == {
        "id": VaultDelivery.objects.order_by("-pk")[0].pk,
        "worker_id": "w1",
        "queue": "inference",
        "versions": {"TOKEN": 1},
        "is_current": True,
        "api_key": "gpu machines",
        "address": "10.0.0.7",
    }


def test_pages_contain_each_delivery_once_newest_first(client: ApiClient) -> None:
    seen, path = [], f"{PATH}?limit=2"
    while path:
        page = content(client, path)
        seen += [delivery["worker_id"] for delivery in page["deliveries"]]
        path = page["next"]

    assert seen == list(reversed(WORKERS))


def test_the_deliveries_to_one_worker_can_be_listed(client: ApiClient) -> None:
    first = content(client, f"{PATH}?worker_id=w1&limit=2")
    second = content(client, first["next"])

    assert [delivery["worker_id"] for delivery in first["deliveries"] + second["deliveries"]] == ["w1"] * 3
    assert second["next"] is None


def test_a_cursor_of_another_workers_list_is_rejected(client: ApiClient) -> None:
    cursor = content(client, f"{PATH}?limit=1")["next"].partition("cursor=")[2]

    response = client.get(f"{PATH}?worker_id=w1&cursor={cursor}")

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "cursor=x", "cursor=e30"])
def test_an_invalid_query_is_rejected(client: ApiClient, query: str) -> None:
    response = client.get(f"{PATH}?{query}")

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")


def test_a_vault_without_deliveries_has_an_empty_list_and_an_unknown_one_is_not_found(client: ApiClient) -> None:
    create_vault(name="fresh")

    assert content(client, "/api/vaults/fresh/deliveries") == {"deliveries": [], "next": None}
    assert problem(client.get("/api/vaults/nope/deliveries"))["code"] == "vault_not_found"


def test_without_a_master_key_deliveries_are_locked(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    assert problem(client.get(PATH))["code"] == "vaults_locked"
