"""Bulk actions over HTTP."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis as redis_py

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.core.api_keys import Role
from tasks.bulk_runner import run_bulk_actions
from tasks.models import BulkAction
from tests.api.client import ApiClient, Response, problem
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.runs import insert_runs, make_failure
from tests.support.tasks import listed, put
from tests.tasks.task_helpers import put_in

PATH = "/api/bulk-actions"


@pytest.fixture
def client(configuration: None) -> ApiClient:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)
    return ApiClient()


def requested(response: Response) -> dict[str, Any]:
    assert response.status_code == 202, response.content
    found: dict[str, Any] = json.loads(response.content)
    assert response["Location"] == f"{PATH}/{found['id']}"
    return found


def counted(client: ApiClient, **body: object) -> tuple[int, bool]:
    response = client.post(f"{PATH}?dry_run=true", body)
    assert response.status_code == 200, response.content
    found = json.loads(response.content)
    return found["matched"], found["is_exact"]


def test_actions_are_listed_by_pages_the_newest_first(client: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    made = [
        requested(client.post(PATH, {"action": action, "state": "archived"})) for action in ("run", "delete", "run")
    ]

    first = json.loads(client.get(f"{PATH}?limit=2").content)
    second = json.loads(client.get(first["next"]).content)

    assert [bulk["id"] for bulk in first["bulk_actions"]] == [made[2]["id"], made[1]["id"]]
    assert second == {"bulk_actions": [made[0]], "next": None}


def test_an_action_is_requested_followed_and_applied(client: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2")
    put_in(single_broker, "archived", "h1", queue="inference_high")

    assert counted(client, action="run", state="archived") == (3, True)
    assert not BulkAction.objects.exists()
    bulk = requested(client.post(PATH, {"action": "run", "state": "archived", "queue": "simple"}))
    run_bulk_actions(single_broker)
    done = json.loads(client.get(f"{PATH}/{bulk['id']}").content)

    assert (bulk["state"], bulk["expected"], bulk["filter"]) == ("waiting", 2, {"state": "archived", "queue": "simple"})
    assert (done["state"], done["done"], done["problems"], done["error"]) == ("finished", 2, [], None)
    assert {*listed(single_broker, "simple")["pending"]} == {"t1", "t2"}
    assert listed(single_broker, "inference_high") == {"archived": ["h1"]}
    assert audit_records().filter(action="bulk_action.created", actor_kind="key").count() == 1


def test_only_tasks_that_have_been_in_the_state_since_before_a_time_are_changed(
    client: ApiClient, single_broker: Broker, redis: redis_py.Redis
) -> None:
    put(single_broker, "old", "new", "unknown", queue="simple")
    hour_ago_ns = single_broker.now_ns() - 3600 * 10**9
    redis.hset(QueueKeys("simple").task("old"), "pending_since", hour_ago_ns)
    redis.hdel(QueueKeys("simple").task("unknown"), "pending_since")
    before = (datetime.now(UTC) - timedelta(minutes=30)).isoformat()

    assert counted(client, action="delete", state="pending", to=before) == (1, True)
    requested(client.post(PATH, {"action": "delete", "state": "pending", "to": before}))
    run_bulk_actions(single_broker)

    assert {*listed(single_broker, "simple")["pending"]} == {"new", "unknown"}


def test_ended_tasks_are_found_in_the_history(client: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2")
    insert_runs(make_failure(task_id="t1"), make_failure("KeyError: 'x'", task_id="t2"), queue="simple")
    group = json.loads(client.get("/api/errors").content)["errors"][0]

    body = {"action": "run", "outcomes": ["failed"], "fingerprint": group["fingerprint"], "queue": "simple"}
    assert counted(client, **body) == (1, True)
    requested(client.post(PATH, body))
    run_bulk_actions(single_broker)

    assert [len(ids) for ids in listed(single_broker, "simple").values()] == [1, 1]


def test_a_bulk_action_ends_with_its_api_key(client: ApiClient, single_broker: Broker) -> None:
    put(single_broker, "t1", "t2", queue="simple")
    created = create_api_key(name="leaked", role=Role.ADMIN)
    bulk = requested(ApiClient(key=created.plain).post(PATH, {"action": "delete", "state": "pending"}))

    revoke_api_key(key_id=created.row.pk)
    run_bulk_actions(single_broker)

    found = BulkAction.objects.get(pk=bulk["id"])
    assert (found.state, found.error) == (
        "failed",
        "The user or API key that requested it may no longer do this.",
    )
    assert len(listed(single_broker, "simple")["pending"]) == 2


def test_a_bulk_action_is_cancelled_once(client: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    bulk = requested(client.post(PATH, {"action": "run", "state": "archived"}))

    canceled = [client.post(f"{PATH}/{bulk['id']}/cancel") for _ in range(2)]
    run_bulk_actions(single_broker)

    assert [json.loads(response.content)["state"] for response in canceled] == ["canceled"] * 2
    assert listed(single_broker, "simple") == {"archived": ["t1"]}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "action: This field is required."),
        ({"action": "release", "state": "scheduled"}, "action: Must be one of run, cancel, archive, delete."),
        ({"action": "run", "state": "pending"}, "action: Not possible for tasks in the state pending."),
        ({"action": "cancel"}, "action: Not possible for tasks that ended; give the state of the tasks."),
        ({"action": "run", "state": "gone"}, "state: Must be one of "),
        ({"action": "run", "state": "retry", "worker": "w"}, "worker: Applies to ended tasks; remove it, or state."),
        ({"action": "run", "outcomes": ["lost", "x"]}, "outcomes[1]: Must be one of "),
        ({"action": "run", "to": "yesterday"}, "to: "),
        ({"action": "run", "status": "retry"}, "status: Unknown field."),
    ],
)
def test_a_wrong_member_is_named(client: ApiClient, body: dict[str, object], error: str) -> None:
    response = client.post(PATH, body)

    assert response.status_code == 400
    assert error in "; ".join(problem(response)["errors"])


def test_unknown_queues_and_bulk_actions_are_not_found(client: ApiClient) -> None:
    responses = [client.post(PATH, {"action": "run", "queue": "nope"})]
    responses += [client.post(PATH, {"action": "run", "queue": "nope", "state": "retry"})]
    responses += [client.get(f"{PATH}/{number}") for number in (17, 10**30, "x")]
    responses += [client.post(f"{PATH}/17/cancel")]

    codes = [(response.status_code, problem(response)["code"]) for response in responses]
    assert codes == [(404, "queue_not_found")] * 2 + [(404, "bulk_action_not_found")] * 4
