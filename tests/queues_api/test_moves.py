"""Requests to move the tasks of Redis queues that no definition names."""

import json
from typing import Any

import pytest

from queues.models import QueueMove, QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.api_keys import Role
from runqy.broker.broker import Broker
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from tests.support.tasks import put

PATH = "/api/cli/queues/lost.default/move"


@pytest.fixture
def client(configuration: None, single_broker: Broker) -> ApiClient:
    """Return an administrator's client; there are tasks that no definition names."""
    save_queue(spec=spec("mail"), source=QueueSource.API)
    put(single_broker, "a", queue="lost.default")
    return ApiClient()


def send(client: ApiClient, body: Any, path: str = PATH) -> Any:
    return client.post(path, body)


def test_a_move_is_requested_and_recorded(client: ApiClient) -> None:
    response = send(client, {"to": "mail.default"})

    assert (response.status_code, json.loads(response.content)) == (
        200,
        {"message": "move requested", "queue": "lost.default", "to": "mail"},
    )
    assert list(QueueMove.objects.values_list("source", "destination")) == [("lost.default", "mail")]
    (row,) = audit_records().filter(action="queue.move_requested")
    assert (row.object_name, row.actor_kind) == ("lost.default", "key")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (PATH, {}, 400, "invalid_request"),
        (PATH, {"to": 5}, 400, "invalid_request"),
        (PATH, {"to": "unknown"}, 404, "queue_not_found"),
        ("/api/cli/queues/nowhere/move", {"to": "mail"}, 404, "queue_not_found"),
        ("/api/cli/queues/mail/move", {"to": "mail"}, 400, "queue_invalid"),
    ],
)
def test_a_wrong_request_is_refused(client: ApiClient, path: str, body: Any, status: int, code: str) -> None:
    response = send(client, body, path)

    assert (response.status_code, problem(response)["code"]) == (status, code)
    assert not QueueMove.objects.exists()


def test_only_administrators_of_all_queues_may_move_tasks(client: ApiClient) -> None:
    limited = create_api_key(name="limited", role=Role.ADMIN, queues=["mail"]).plain

    statuses = [send(ApiClient(key), {"to": "mail"}).status_code for key in (None, CLIENT_KEY, WORKER_KEY, limited)]

    assert statuses == [401, 403, 403, 403]
