"""Who may use which route: every operation of the schema, with keys of every role, limited to queues or not."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from drf_spectacular.generators import SchemaGenerator
from rest_framework.response import Response
from rest_framework.views import APIView

from queues.models import Source
from queues.operations import save_queue
from runqy.accounts.identity import Role
from runqy.accounts.operations import create_api_key
from tests.api.wsgi import call
from tests.queues.samples import spec

ALL = {"admin", "client", "worker", "admin of a queue", "client of a queue", "worker of a queue"}
CLIENTS = ALL - {"worker", "worker of a queue"}
WORKERS = ALL - {"client", "client of a queue"}
QUEUE_ADMINS = {"admin", "admin of a queue"}
ADMINS = {"admin"}

MAY = {
    "enqueue_task": CLIENTS,
    "enqueue_batch": CLIENTS,
    "create_task": CLIENTS,
    "get_task": CLIENTS,
    "stream_task_events": CLIENTS,
    "list_tasks": CLIENTS,
    "get_queue_task": CLIENTS,
    "register_worker": WORKERS,
    "get_limits": ALL,
    "list_queues": QUEUE_ADMINS,
    "get_queue": QUEUE_ADMINS,
    "pause_queue": QUEUE_ADMINS,
    "unpause_queue": QUEUE_ADMINS,
    "redeploy_queue": QUEUE_ADMINS,
    "cancel_task": CLIENTS,
    "delete_task": CLIENTS,
    "run_task": QUEUE_ADMINS,
    "archive_task": QUEUE_ADMINS,
    "run_tasks": QUEUE_ADMINS,
    "archive_tasks": QUEUE_ADMINS,
    "delete_tasks": QUEUE_ADMINS,
    "list_workers": QUEUE_ADMINS,
    "get_worker": QUEUE_ADMINS,
    "list_configs": QUEUE_ADMINS,
    "get_config": QUEUE_ADMINS,
    "create_config": QUEUE_ADMINS,
    "replace_config": QUEUE_ADMINS,
    "delete_config": QUEUE_ADMINS,
    "reload_configs": ADMINS,
}
"""What is not named here, vaults and keys above all, is for administrators of everything."""


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
        for method, told in methods.items():
            if not told.get("security"):
                continue
            filled = re.sub(r"\{key_id\}", "999", path)
            filled = re.sub(r"\{\w+\}", "nothing", filled)
            content = told.get("requestBody", {}).get("content", {}).get("application/json", {})
            example = next((e["value"] for e in content.get("examples", {}).values()), None)
            body = b"" if example is None else json.dumps(example).encode()
            yield Operation(told["operationId"], method.upper(), filled, body)


OPERATIONS = list(operations())


@pytest.fixture
def keys(configuration: None) -> dict[str, str]:
    """Return keys of every kind; there is a queue that some are limited to."""
    save_queue(spec=spec("simple"), source=Source.API)
    return {
        name: create_api_key(name=name, role=Role(name.split()[0]), queues=["simple"] * ("of" in name)).plain
        for name in sorted(ALL)
    }


def test_each_key_may_do_what_its_role_and_queues_say(keys: dict[str, str]) -> None:
    answers = {
        (operation, name): call(
            operation.method, operation.path, operation.body, HTTP_AUTHORIZATION=f"Bearer {key}"
        ).status
        for operation in OPERATIONS
        for name, key in keys.items()
    }

    found = {one: {name for name in keys if answers[one, name] != 403} for one in OPERATIONS}
    assert found == {one: MAY.get(one.name.removesuffix("_alias"), ADMINS) for one in OPERATIONS}
    assert not {asked: status for asked, status in answers.items() if status in (401, 405) or status >= 500}


def test_the_table_names_no_operation_that_is_gone() -> None:
    assert MAY.keys() <= {operation.name.removesuffix("_alias") for operation in OPERATIONS}


def test_a_view_that_names_no_role_is_for_administrators(keys: dict[str, str], rf: Any) -> None:
    class Forgotten(APIView):
        def get(self, request: Any) -> Response:
            return Response("secret")

    def status(**headers: str) -> int:
        return Forgotten.as_view()(rf.get("/", headers=headers)).status_code

    found = {name: status(Authorization=f"Bearer {key}") for name, key in keys.items()}
    assert found == {name: 200 if name in ADMINS else 403 for name in ALL}
    assert status() == 401
