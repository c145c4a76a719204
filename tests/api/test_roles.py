"""Who may use which route: every operation of the schema, with keys of every role, limited to queues or not."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from drf_spectacular.generators import SchemaGenerator
from rest_framework.response import Response
from rest_framework.views import APIView

from queues.api.viewsets import QueueConfigViewSet
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.core.api_keys import Role
from tests.api import planes
from tests.api.client import ApiClient, problem
from tests.api.wsgi import call
from tests.queues.samples import spec
from tests.support.data_plane import DataPlane
from tests.support.environment import ADMIN_KEY, CLIENT_KEY

ALL = {"admin", "client", "worker", "metrics", "admin of a queue", "client of a queue", "worker of a queue"}
VIEWERS = {"viewer", "operator", "configurator"}
LIMITED_VIEWERS = {"viewer of a queue"}
CLIENTS = ALL - {"worker", "worker of a queue", "metrics"}
WORKERS = ALL - {"client", "client of a queue", "metrics"}
QUEUE_ADMINS = {"admin", "admin of a queue"}
ADMINS = {"admin"}

MAY = {
    "enqueue_task": CLIENTS,
    "enqueue_batch": CLIENTS,
    "create_task": CLIENTS,
    "get_task": CLIENTS,
    "stream_task_events": CLIENTS,
    "stream_task": CLIENTS,
    "list_tasks": CLIENTS,
    "get_queue_task": CLIENTS,
    "get_task_logs": CLIENTS,
    "list_runs": CLIENTS,
    "list_errors": CLIENTS,
    "get_queue_stats": CLIENTS,
    "register_worker": WORKERS,
    "list_registrable_queues": WORKERS,
    "get_own_api_key": ALL,
    "get_limits": ALL - {"metrics"},
    "get_metrics": {"admin", "metrics"},
    "list_batches": CLIENTS,
    "stream_batch_events": CLIENTS,
    "create_batch": CLIENTS,
    "get_batch": CLIENTS,
    "add_to_batch": CLIENTS,
    "close_batch": CLIENTS,
    "cancel_batch": CLIENTS,
    "list_alerts": QUEUE_ADMINS,
    "acknowledge_alerts": QUEUE_ADMINS,
    "snooze_alerts": QUEUE_ADMINS,
    "resume_alerts": QUEUE_ADMINS,
    "list_webhooks": QUEUE_ADMINS,
    "create_webhook": QUEUE_ADMINS,
    "get_webhook": QUEUE_ADMINS,
    "change_webhook": QUEUE_ADMINS,
    "delete_webhook": QUEUE_ADMINS,
    "rotate_webhook_secret": QUEUE_ADMINS,
    "send_test_event": QUEUE_ADMINS,
    "resend_webhook_deliveries": QUEUE_ADMINS,
    "list_webhook_deliveries": QUEUE_ADMINS,
    "show_queue_webhook_secret": QUEUE_ADMINS,
    "show_git_hook_secret": QUEUE_ADMINS,
    "rotate_git_hook_secret": QUEUE_ADMINS,
    "rotate_queue_webhook_secret": QUEUE_ADMINS,
    "get_queue_demand": CLIENTS | {"metrics"},
    "list_queues": QUEUE_ADMINS,
    "get_queue": QUEUE_ADMINS,
    "pause_queue": QUEUE_ADMINS,
    "unpause_queue": QUEUE_ADMINS,
    "redeploy_queue": QUEUE_ADMINS,
    "roll_back_queue": QUEUE_ADMINS,
    "list_releases": QUEUE_ADMINS,
    "enable_queue": QUEUE_ADMINS,
    "disable_queue": QUEUE_ADMINS,
    "cancel_task": CLIENTS,
    "delete_task": CLIENTS,
    "run_task": QUEUE_ADMINS,
    "archive_task": QUEUE_ADMINS,
    "run_tasks": QUEUE_ADMINS,
    "archive_tasks": QUEUE_ADMINS,
    "delete_tasks": QUEUE_ADMINS,
    "release_tasks": QUEUE_ADMINS,
    "list_workers": QUEUE_ADMINS,
    "get_worker": QUEUE_ADMINS,
    "drain_worker": QUEUE_ADMINS,
    "restart_worker": QUEUE_ADMINS,
    "stop_worker": QUEUE_ADMINS,
    "list_configs": QUEUE_ADMINS,
    "get_config": QUEUE_ADMINS,
    "create_config": QUEUE_ADMINS,
    "replace_config": QUEUE_ADMINS,
    "delete_config": QUEUE_ADMINS,
    "get_config_deletion": QUEUE_ADMINS,
    "list_schedules": QUEUE_ADMINS,
    "create_schedule": QUEUE_ADMINS,
    "get_schedule": QUEUE_ADMINS,
    "replace_schedule": QUEUE_ADMINS,
    "delete_schedule": QUEUE_ADMINS,
    "trigger_schedule": QUEUE_ADMINS,
    "pause_schedule": QUEUE_ADMINS,
    "unpause_schedule": QUEUE_ADMINS,
    "list_fires": QUEUE_ADMINS,
    "reload_configs": ADMINS,
    "apply_configs": ADMINS,
}
"""What is not named here, vaults and keys above all, is for administrators of everything."""

_READ = {
    "list_queues",
    "get_queue",
    "get_queue_demand",
    "list_configs",
    "get_config",
    "get_config_deletion",
    "get_queue_stats",
}
_READ |= {"list_workers", "get_worker", "list_alerts", "list_webhooks", "get_webhook", "list_batches", "get_batch"}
_READ |= {"stream_batch_events", "list_releases"}
_READ_ALL = {"list_vaults", "get_vault", "list_vault_entries", "get_vault_entry", "list_vault_entry_versions"}
_READ_ALL |= {"list_vault_deliveries", "list_api_keys", "get_api_key", "list_audit_records"}
_READ_TASKS = {"get_task", "stream_task_events", "stream_task", "list_tasks", "get_queue_task", "get_task_logs"}
_READ_TASKS |= {"list_runs", "list_errors", "list_schedules", "get_schedule", "list_fires", "list_webhook_deliveries"}
_READ_TASKS |= {"list_bulk_actions", "get_bulk_action"}
_RUN = {"pause_queue", "unpause_queue", "trigger_schedule", "pause_schedule", "unpause_schedule"}
_OPERATE = {"enqueue_task", "enqueue_batch", "create_task", "create_batch", "add_to_batch", "close_batch"}
_OPERATE |= {"cancel_batch", "cancel_task", "delete_task", "run_task", "archive_task", "run_tasks", "archive_tasks"}
_OPERATE |= {"drain_worker", "restart_worker", "stop_worker"}
_OPERATE |= {"acknowledge_alerts", "snooze_alerts", "resume_alerts"}
_OPERATE |= {"delete_tasks", "release_tasks", "create_bulk_action", "cancel_bulk_action"}
_CONFIGURE = {
    "redeploy_queue",
    "roll_back_queue",
    "enable_queue",
    "disable_queue",
    "create_config",
    "replace_config",
    "delete_config",
}
_CONFIGURE |= {"reload_configs", "apply_configs", "create_schedule", "replace_schedule", "delete_schedule"}
_CONFIGURE |= {"create_webhook", "change_webhook", "delete_webhook", "rotate_webhook_secret", "send_test_event"}
_CONFIGURE |= {"resend_webhook_deliveries", "create_vault", "delete_vault", "put_vault_entry", "set_vault_entry"}
_CONFIGURE |= {"set_vault_entries", "delete_vault_entry"}
_STAFF_MAY = (
    (_READ | {"get_own_api_key", "get_limits"}, VIEWERS | LIMITED_VIEWERS),
    (_READ_ALL, VIEWERS),
    (_READ_TASKS | _RUN, {"operator", "configurator"}),
    (_OPERATE, {"operator"}),
    (_CONFIGURE, {"configurator"}),
)
STAFF_MAY = {name: keys for names, keys in _STAFF_MAY for name in names}
"""What keys with the roles of people may do in addition; what is not named, nothing."""


def allowed(operation: str) -> set[str]:
    """Return which keys may use an operation, or its alias."""
    name = operation.removesuffix("_alias")
    return MAY.get(name, ADMINS) | STAFF_MAY.get(name, set())


class Operation(NamedTuple):
    """A route and a method, with the body of its example."""

    name: str
    method: str
    path: str
    body: bytes


def operations() -> Iterator[Operation]:
    """Give each operation that needs a key, aliases included, about things that do not exist."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if {"ApiKey": []} not in operation.get("security", []):
                continue
            filled = re.sub(r"\{key_id\}", "999", path)
            filled = filled.replace("{batch_id}", str(UUID(int=0)))  # the data plane serves only such
            filled = re.sub(r"\{\w+\}", "nothing", filled)
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            example = next((e["value"] for e in content.get("examples", {}).values()), None)
            body = b"" if example is None else json.dumps(example).encode()
            yield Operation(operation["operationId"], method.upper(), filled, body)


OPERATIONS = list(operations())


@pytest.fixture
def keys(configuration: None) -> dict[str, str]:
    """Return keys of every kind; some are limited to a queue."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    return {
        name: create_api_key(name=name, role=Role(name.split()[0]), queues=["simple"] * ("of" in name)).plain
        for name in sorted(ALL | VIEWERS | LIMITED_VIEWERS)
    }


def test_each_operation_allows_its_roles_and_queue_scoped_keys(keys: dict[str, str], each_plane: str) -> None:
    responses = {
        (operation, name): call(
            operation.method, operation.path, operation.body, HTTP_AUTHORIZATION=f"Bearer {key}", HTTP_VIA="proxy"
        ).status
        for operation in OPERATIONS
        for name, key in keys.items()
    }

    found = {one: {name for name in keys if responses[one, name] != 403} for one in OPERATIONS}
    assert found == {one: allowed(one.name) for one in OPERATIONS}
    assert not {request: status for request, status in responses.items() if status in (401, 405) or status >= 500}


HOT_QUERIES = {"get_batch": "wait=0.001", "get_task_logs": "follow=true"}
"""Without these the data plane passes the requests on."""


def test_each_hot_route_allows_its_roles_on_both_planes(
    keys: dict[str, str], data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = [one for one in OPERATIONS if data_plane.serves(one.method, one.path)]

    def find_allowed(plane: DataPlane | None) -> dict[str, set[str]]:
        monkeypatch.setattr(planes, "data_plane", plane)
        return {one.name: {name for name, key in keys.items() if send(one, key) != 403} for one in hot}

    def send(one: Operation, key: str) -> int:
        path = one.path.replace("/queues/nothing/", "/queues/simple/")
        query = HOT_QUERIES.get(one.name, "")
        return call(one.method, path, one.body, HTTP_AUTHORIZATION=f"Bearer {key}", QUERY_STRING=query).status

    wanted = {one.name: allowed(one.name) for one in hot}
    assert len(hot) == 8
    assert find_allowed(data_plane) == wanted
    assert find_allowed(None) == wanted


def test_the_table_names_existing_operations_only() -> None:
    assert MAY.keys() | STAFF_MAY.keys() <= {operation.name.removesuffix("_alias") for operation in OPERATIONS}


def test_a_view_without_roles_is_for_administrators(keys: dict[str, str], rf: Any) -> None:
    class Forgotten(APIView):
        def get(self, request: Any) -> Response:
            return Response("secret")

    def status(**headers: str) -> int:
        return Forgotten.as_view()(rf.get("/", headers=headers)).status_code

    found = {name: status(Authorization=f"Bearer {key}") for name, key in keys.items()}
    assert found == {name: 200 if name in ADMINS else 403 for name in keys}
    assert status() == 401


@pytest.mark.parametrize("order", [1, -1])
def test_permission_classes_decide_the_same_in_any_order(
    *, configuration: None, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    classes = QueueConfigViewSet.permission_classes
    monkeypatch.setattr(QueueConfigViewSet, "permission_classes", classes[::order])

    found = [ApiClient(key).get("/api/cli/configs") for key in (None, CLIENT_KEY, ADMIN_KEY)]

    assert [response.status_code for response in found] == [401, 403, 200]
    assert problem(found[1])["detail"] == "A key with the role client is not allowed to do this."


def test_the_schema_names_the_roles_of_each_operation() -> None:
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]  # type: ignore[no-untyped-call]
    described = {
        operation["operationId"]: set(operation["x-roles"])
        for methods in paths.values()
        for operation in methods.values()
        if "x-roles" in operation
    }

    assert len(described) > 60
    assert described == {name: {key.split()[0] for key in allowed(name)} for name in described}
