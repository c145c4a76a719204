"""Cancelling and deleting tasks, and running, archiving and deleting all of a state."""

import json
from typing import Any

import pytest
import redis as redis_py

from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys, lookup
from runqy.broker.states import TaskState
from runqy.core.api_keys import Role
from tasks.actions import (
    TaskAction,
    TaskFilter,
    TaskSelection,
    apply_action,
    apply_to_matching,
    apply_to_selected,
    cancel_task,
)
from tasks.duties import CancellationEnforcer
from tests.api.client import ApiClient, Response, problem
from tests.support.audit import audit_records
from tests.support.environment import CLIENT_KEY
from tests.support.redis_client import redis_of
from tests.support.tasks import fields, listed, message, put, take, take_one
from tests.tasks.task_helpers import fail_for_good, put_in

DELETES = ("/api/cli/queues/simple/tasks/t1", "/api/queues/simple/tasks/t1")
BULK = "/api/cli/queues/simple/tasks"


@pytest.fixture
def admin(client: ApiClient) -> ApiClient:
    """Return an administrator's client, and define queues of several kinds."""
    return ApiClient()


def cancel(admin: ApiClient, task_id: str = "t1", *, by_alias: bool = False) -> Response:
    """Ask for a task to be cancelled."""
    if by_alias:
        return admin.post(f"/api/tasks/{task_id}/cancel")
    return admin.delete(f"/api/cli/tasks/{task_id}")


def records() -> list[tuple[str, str]]:
    """Return the audit records about tasks: actions and objects."""
    rows = audit_records().filter(action__startswith="task").order_by("number")
    return [(row.action, row.object_name) for row in rows]


@pytest.mark.parametrize("by_alias", [False, True])
@pytest.mark.parametrize("state", ["pending", "scheduled", "retry"])
def test_a_pending_task_is_cancelled_at_once(
    admin: ApiClient, single_broker: Broker, state: str, by_alias: bool
) -> None:
    put_in(single_broker, state, "t1")

    response = cancel(admin, by_alias=by_alias)

    assert (response.status_code, json.loads(response.content)) == (200, {"message": "task cancelled", "task_id": "t1"})
    assert listed(single_broker, "simple") == {"archived": ["t1"]}
    assert records() == [("task.canceled", "t1")]
    assert cancel(admin, by_alias=by_alias).status_code == 200
    assert records() == [("task.canceled", "t1")]


@pytest.mark.parametrize("by_alias", [False, True])
def test_an_active_task_is_cancelled_by_its_worker(admin: ApiClient, single_broker: Broker, by_alias: bool) -> None:
    put(single_broker, "t1", queue="simple")
    take_one(single_broker, "simple")

    response = cancel(admin, by_alias=by_alias)

    assert (response.status_code, response["Location"]) == (202, "/queue/t1")
    assert "cancel" in fields(single_broker, "t1", "simple")
    assert admin.get(response["Location"]).status_code == 200
    assert records() == [("task.cancellation_requested", "t1")]


def test_cancelling_warns_when_another_program_runs_the_task(admin: ApiClient, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    key = QueueKeys("simple").task("t1")
    redis_of(single_broker).hset(key, "state", "active")

    response = cancel(admin)

    assert response.status_code == 202
    assert "may not be able to interrupt it" in response.json()["message"]
    redis_of(single_broker).hset(key, "state", "pending")
    CancellationEnforcer().run_tick(single_broker)
    assert redis_of(single_broker).hget(key, "state") == b"archived"


@pytest.mark.parametrize("by_alias", [False, True])
@pytest.mark.parametrize("state", ["archived", "completed"])
def test_an_ended_task_is_not_cancelled(admin: ApiClient, single_broker: Broker, state: str, by_alias: bool) -> None:
    put_in(single_broker, state, "t1")

    response = cancel(admin, by_alias=by_alias)

    assert (response.status_code, problem(response)["code"]) == (409, "task_ended")
    assert listed(single_broker, "simple") == {state: ["t1"]}
    assert records() == []


@pytest.mark.parametrize("by_alias", [False, True])
def test_an_unknown_task_is_not_cancelled(admin: ApiClient, by_alias: bool) -> None:
    assert problem(cancel(admin, "nope", by_alias=by_alias))["code"] == "task_not_found"


def test_the_alias_of_cancelling_is_deprecated(admin: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1")

    response = cancel(admin, by_alias=True)

    assert response["Link"] == '</api/cli/tasks/t1>; rel="successor-version"'
    assert response.has_header("Deprecation")


@pytest.mark.parametrize("path", DELETES)
@pytest.mark.parametrize("state", ["pending", "scheduled", "retry", "archived", "completed"])
def test_a_deleted_task_is_removed_with_its_lookup(
    admin: ApiClient, single_broker: Broker, redis: redis_py.Redis, path: str, state: str
) -> None:
    put_in(single_broker, state, "t1")

    response = admin.delete(path)

    assert (response.status_code, json.loads(response.content)) == (200, {"message": "task deleted", "task_id": "t1"})
    assert listed(single_broker, "simple") == {}
    assert not redis.exists(QueueKeys("simple").task("t1"), lookup("t1"))
    assert records() == [("task.deleted", "t1")]
    assert problem(admin.delete(path))["code"] == "task_not_found"


@pytest.mark.parametrize("path", DELETES)
def test_an_active_task_is_not_deleted(admin: ApiClient, single_broker: Broker, path: str) -> None:
    put(single_broker, "t1", queue="simple")
    take_one(single_broker, "simple")

    response = admin.delete(path)

    assert (response.status_code, problem(response)["code"]) == (409, "task_running")
    assert records() == []


def test_a_task_of_another_queue_is_not_deleted(admin: ApiClient, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="limited")

    assert problem(admin.delete("/api/cli/queues/simple/tasks/t1"))["code"] == "task_not_found"
    assert problem(admin.delete("/api/cli/queues/nope/tasks/t1"))["code"] == "queue_not_found"
    assert listed(single_broker, "limited") == {"pending": ["t1"]}


@pytest.mark.parametrize(
    ("action", "state", "becomes"),
    [("run", "scheduled", "pending"), ("run", "archived", "pending"), ("archive", "retry", "archived")],
)
def test_an_action_on_one_task_is_applied_once(
    admin: ApiClient, single_broker: Broker, action: str, state: str, becomes: str
) -> None:
    put_in(single_broker, state, "t1")

    responses = [admin.post(f"{BULK}/t1/{action}") for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 200]
    assert json.loads(responses[0].content) == {"message": f"task {becomes}", "task_id": "t1"}
    assert listed(single_broker, "simple") == {becomes: ["t1"]}
    assert len(records()) == 1


@pytest.mark.parametrize("action", ["run", "archive"])
def test_a_task_in_an_unsuited_state_does_not_change(admin: ApiClient, single_broker: Broker, action: str) -> None:
    put(single_broker, "t1", queue="simple")
    take_one(single_broker, "simple")

    assert problem(admin.post(f"{BULK}/t1/{action}"))["code"] == "task_running"
    assert problem(admin.post(f"{BULK}/nope/{action}"))["code"] == "task_not_found"
    assert ApiClient(CLIENT_KEY).post(f"{BULK}/t1/{action}").status_code == 403
    assert ApiClient(None).post(f"{BULK}/t1/{action}").status_code == 401
    assert records() == []


def test_a_completed_task_is_not_archived(admin: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "completed", "t1")

    response = admin.post(f"{BULK}/t1/archive")

    assert (response.status_code, problem(response)["code"]) == (409, "task_state_unsuited")


@pytest.mark.parametrize(
    ("action", "state", "becomes"),
    [
        ("run", "scheduled", {"pending": ["t1", "t2"]}),
        ("run", "retry", {"pending": ["t1", "t2"]}),
        ("run", "archived", {"pending": ["t1", "t2"]}),
        ("archive", "pending", {"archived": ["t1", "t2"]}),
        ("archive", "scheduled", {"archived": ["t1", "t2"]}),
        ("archive", "retry", {"archived": ["t1", "t2"]}),
        ("delete", "pending", {}),
        ("delete", "scheduled", {}),
        ("delete", "retry", {}),
        ("delete", "archived", {}),
        ("delete", "completed", {}),
        ("release", "scheduled", {"retry": ["t1", "t2"]}),
    ],
)
def test_actions_on_all_tasks_of_a_state_apply_or_count(
    admin: ApiClient, single_broker: Broker, action: str, state: str, becomes: dict[str, list[str]]
) -> None:
    put_in(single_broker, state, "t1", "t2")
    before = listed(single_broker, "simple")
    expected = {"queue": "simple", "action": action, "state": state, "matched": 2}

    tried = admin.post(f"{BULK}/{action}?state={state}&dry_run=true")
    untouched, unrecorded = listed(single_broker, "simple"), records()
    done = admin.post(f"{BULK}/{action}?state={state}")

    assert json.loads(tried.content) == expected | {"dry_run": True, "affected": 0}
    assert (untouched, unrecorded) == (before, [])
    assert json.loads(done.content) == expected | {"dry_run": False, "affected": 2}
    assert listed(single_broker, "simple") == becomes
    assert [name for _, name in records()] == ["simple"]


def test_running_an_archived_task_restores_its_retries(admin: ApiClient, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    taken = take_one(single_broker, "simple")
    taken.message.retried = 3
    fail_for_good(single_broker, taken, "boom")

    admin.post(f"{BULK}/run?state=archived")

    assert message(single_broker, "t1", "simple").retried == 0
    assert [task.lease.task_id for task in take(single_broker, 1, "simple")] == ["t1"]


def test_a_limit_leaves_the_other_tasks(admin: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1", "t2", "t3")

    response = admin.post(f"{BULK}/delete?state=pending&limit=2")

    assert json.loads(response.content)["affected"] == 2
    assert listed(single_broker, "simple") == {"pending": ["t3"]}


def test_an_action_without_tasks_changes_nothing(admin: ApiClient) -> None:
    response = admin.post(f"{BULK}/delete?state=archived")

    assert (response.status_code, json.loads(response.content)["matched"]) == (200, 0)
    assert records() == []


@pytest.mark.parametrize(
    ("rest", "named"),
    [
        ("run", "state"),
        ("run?state=pending", "state"),
        ("run?state=completed", "state"),
        ("archive?state=archived", "state"),
        ("release?state=retry", "state"),
        ("delete?state=active", "state"),
        ("delete?state=nope", "state"),
        ("delete?state=pending&limit=0", "limit"),
        ("delete?state=pending&dry_run=perhaps", "dry_run"),
        ("delete?state=pending&dry_run", "dry_run"),
    ],
)
def test_an_invalid_query_is_refused_by_parameter(
    admin: ApiClient, single_broker: Broker, rest: str, named: str
) -> None:
    put_in(single_broker, "pending", "t1")

    response = admin.post(f"{BULK}/{rest}")

    assert (response.status_code, problem(response)["errors"][0].split(":")[0]) == (400, named)
    assert listed(single_broker, "simple") == {"pending": ["t1"]}


@pytest.mark.parametrize("action", ["delete", "archive", "run?state=scheduled", "release?state=scheduled"])
def test_a_body_that_names_tasks_is_refused_and_nothing_happens(
    admin: ApiClient, single_broker: Broker, action: str
) -> None:
    put_in(single_broker, "pending", "t1", "t2")
    put_in(single_broker, "scheduled", "t3")
    path, _, query = action.partition("?")

    response = admin.post(f"{BULK}/{path}?{query or 'state=pending'}", {"task_ids": ["t1"]})
    empty = admin.post(f"{BULK}/delete?state=pending&limit=1", {})

    assert (response.status_code, problem(response)["errors"]) == (
        400,
        ["task_ids: This request accepts query parameters only, no body."],
    )
    assert empty.status_code == 200
    assert listed(single_broker, "simple") == {"pending": ["t2"], "scheduled": ["t3"]}


def test_an_unknown_queue_is_not_found(admin: ApiClient) -> None:
    response = admin.post("/api/cli/queues/nope/tasks/delete?state=pending")

    assert (response.status_code, problem(response)["code"]) == (404, "queue_not_found")


def test_a_clients_key_cancels_and_deletes_the_tasks_of_its_queues(admin: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1")
    mine = ApiClient(create_api_key(name="simple", role=Role.CLIENT, queues=["simple"]).plain)
    other = ApiClient(create_api_key(name="image", role=Role.CLIENT, queues=["image"]).plain)

    refused = [cancel(other).status_code, other.delete(DELETES[0]).status_code]
    accepted = [cancel(mine).status_code, mine.delete(DELETES[0]).status_code]

    assert (refused, accepted) == ([404, 404], [200, 200])
    assert listed(single_broker, "simple") == {}


def test_a_key_of_one_queue_changes_no_other(admin: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1")
    limited = ApiClient(create_api_key(name="image", role=Role.ADMIN, queues=["image"]).plain)

    responses: list[Any] = [cancel(limited), limited.delete(DELETES[0]), limited.post(f"{BULK}/delete?state=pending")]

    assert [response.status_code for response in responses] == [404, 404, 404]
    assert listed(single_broker, "simple") == {"pending": ["t1"]}


@pytest.mark.parametrize("how", ["cancel", "archive", "cancel selected", "archive selected", "archive all"])
def test_the_archive_keeps_at_most_the_configured_number_of_tasks(
    admin: ApiClient, single_broker: Broker, settings: Any, how: str
) -> None:
    settings.RUNQY_ARCHIVE_MAX_TASKS = 1
    put_in(single_broker, "archived", "old")
    redis_of(single_broker).zadd(QueueKeys("simple").archived, {"old": single_broker.now_s() - 60})
    put(single_broker, "t1", queue="simple")
    chosen = TaskSelection(queue="simple", state=TaskState.PENDING, task_ids=("t1",))

    if how == "cancel":
        cancel_task(single_broker, task_id="t1")
    elif how == "archive":
        apply_action(single_broker, action=TaskAction.ARCHIVE, queue="simple", task_id="t1")
    elif how == "cancel selected":
        apply_to_selected(single_broker, action=TaskAction.CANCEL, selection=chosen)
    elif how == "archive selected":
        apply_to_selected(single_broker, action=TaskAction.ARCHIVE, selection=chosen)
    else:
        task_filter = TaskFilter(queue="simple", state=TaskState.PENDING)
        apply_to_matching(single_broker, action=TaskAction.ARCHIVE, task_filter=task_filter)

    assert listed(single_broker, "simple") == {"archived": ["t1"]}
