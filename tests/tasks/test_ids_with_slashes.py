"""Ids of other producers may contain slashes; in paths they are percent-encoded."""

import json

import pytest

from runqy.broker.broker import Broker
from runqy.broker.tasks.output import OutputChunk, write_output
from tests.api.client import ApiClient
from tests.support.tasks import listed, put, take_one
from tests.tasks.task_helpers import fail_for_good

ID, ENCODED = "order/17/a b", "order%2F17%2fa%20b"
TASK = f"/api/cli/queues/simple/tasks/{ENCODED}"


@pytest.fixture
def admin(client: ApiClient, single_broker: Broker) -> ApiClient:
    """Return an administrator's client; a task that printed something is archived."""
    put(single_broker, ID, queue="simple")
    taken = take_one(single_broker, "simple")
    single_broker.run(write_output([OutputChunk(lease=taken.lease, text=b"hello")]))
    fail_for_good(single_broker, taken, "boom")
    return ApiClient()


@pytest.mark.parametrize("path", [f"/queue/{ENCODED}", TASK, TASK.replace("/cli", "")])
def test_task_is_read(admin: ApiClient, path: str) -> None:
    response = admin.get(path)

    content = json.loads(response.content)
    assert (response.status_code, content.get("info", content)["id"]) == (200, ID)


def test_its_events_and_output_are_read(admin: ApiClient) -> None:
    events = admin.get(f"/queue/{ENCODED}/events")
    logs, followed = admin.get(f"{TASK}/logs"), admin.get(f"{TASK}/logs?follow=true")

    assert b'"id":"order/17/a b"' in events.getvalue().replace(b": ", b":")
    assert json.loads(logs.content)["text"] == "hello"
    assert b"event: end" in followed.getvalue()


def test_it_is_changed(admin: ApiClient, single_broker: Broker) -> None:
    states = []
    for method, path in (
        (admin.post, f"{TASK}/run"),
        (admin.post, f"{TASK}/archive"),
        (admin.post, f"{TASK}/run"),
        (admin.delete, f"/api/cli/tasks/{ENCODED}"),
        (admin.delete, TASK),
    ):
        assert method(path).status_code == 200, path
        states += [*listed(single_broker, "simple")]

    assert states == ["pending", "archived", "pending", "archived"]


def test_the_successor_of_an_alias_is_encoded(admin: ApiClient, single_broker: Broker) -> None:
    admin.post(f"{TASK}/run")

    response = admin.post(f"/api/tasks/{ENCODED}/cancel")

    assert response["Link"] == '</api/cli/tasks/order%2F17%2Fa%20b>; rel="successor-version"'
