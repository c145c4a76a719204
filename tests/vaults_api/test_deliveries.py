"""GET /api/vaults/{name}/deliveries: who was handed out what."""

import json
from typing import Any

import pytest

from runqy.audit.actors import Actor, ActorKind, actor_context
from tests.api.client import ApiClient, problem
from tests.support.canary import SUITE
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from vaults.deliveries import note_delivery, store_deliveries
from vaults.models import VaultDelivery
from vaults.opening import open_vaults
from vaults.operations import create_vault, set_entry

PATH = "/api/vaults/api-keys/deliveries"
WORKERS = ("w1", "w2", "w1", "w3", "w1")


@pytest.fixture
def client(configuration: None) -> ApiClient:
    """Return an administrator's client; a vault was handed out five times, to three workers."""
    create_vault(name="api-keys")
    set_entry(vault="api-keys", key="TOKEN", value=SUITE.secret())
    shares = open_vaults(["api-keys"]).shares
    with actor_context(Actor(kind=ActorKind.KEY, name="gpu machines", id="7", address="10.0.0.7")):
        for worker_id in WORKERS:
            note_delivery(worker_id=worker_id, queue="inference", shares=shares)
    store_deliveries()
    return ApiClient()


def content(client: ApiClient, path: str) -> Any:
    """Return what is at a path; it may not be kept in a cache."""
    answer = client.get(path)
    assert answer.status_code == 200, answer.content
    assert answer["Cache-Control"] == "no-store"
    return json.loads(answer.content)


def test_a_delivery_is_shown_with_versions_and_without_values(client: ApiClient) -> None:
    shown = content(client, f"{PATH}?limit=1")["deliveries"][0]

    assert shown.pop("delivered_at").endswith("Z")
    assert shown == {
        "id": VaultDelivery.objects.order_by("-pk")[0].pk,
        "worker_id": "w1",
        "queue": "inference",
        "versions": {"TOKEN": 1},
        "is_current": True,
        "api_key": "gpu machines",
        "address": "10.0.0.7",
    }


def test_following_the_pages_shows_each_delivery_once_the_newest_first(client: ApiClient) -> None:
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


def test_a_page_of_another_workers_list_is_refused(client: ApiClient) -> None:
    cursor = content(client, f"{PATH}?limit=1")["next"].partition("cursor=")[2]

    answer = client.get(f"{PATH}?worker_id=w1&cursor={cursor}")

    assert (answer.status_code, problem(answer)["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "cursor=x", "cursor=e30"])
def test_a_wrong_query_is_refused(client: ApiClient, query: str) -> None:
    answer = client.get(f"{PATH}?{query}")

    assert (answer.status_code, problem(answer)["code"]) == (400, "invalid_request")


def test_a_vault_without_deliveries_has_an_empty_list_and_an_unknown_one_is_not_found(client: ApiClient) -> None:
    create_vault(name="fresh")

    assert content(client, "/api/vaults/fresh/deliveries") == {"deliveries": [], "next": None}
    assert problem(client.get("/api/vaults/nope/deliveries"))["code"] == "vault_not_found"


@pytest.mark.parametrize(("key", "status"), [(None, 401), (WORKER_KEY, 403), (CLIENT_KEY, 403)])
def test_only_administrators_see_deliveries(client: ApiClient, key: str | None, status: int) -> None:
    answer = ApiClient(key).get(PATH)

    assert answer.status_code == status
    problem(answer)


def test_without_a_master_key_deliveries_are_locked_as_all_of_vaults(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    assert problem(client.get(PATH))["code"] == "vaults_locked"
