"""Whoever has a task as it is need not be sent it again."""

import json

import pytest

from runqy.connection import get_broker
from tests.api.client import Answer, ApiClient
from tests.support.tasks import take_one


@pytest.fixture
def path(client: ApiClient) -> str:
    """Return where a task is."""
    added = client.post("/queue/add", {"queue": "simple", "data": {}})
    return f"/queue/{json.loads(added.content)['info']['id']}"


def again(client: ApiClient, path: str, etag: str) -> Answer:
    """Read a task unless it is as it was."""
    return client.get(path, **{"If-None-Match": etag})


def test_a_task_that_did_not_change_is_not_sent_again(client: ApiClient, path: str) -> None:
    first = client.get(path)

    second = again(client, path, first["ETag"])

    assert first.status_code == 200
    assert (second.status_code, second.content, second["ETag"]) == (304, b"", first["ETag"])


@pytest.mark.parametrize("header", ["W/{}", '"other", {}', "*"])
def test_the_header_may_be_spelled_in_all_its_ways(client: ApiClient, path: str, header: str) -> None:
    etag = client.get(path)["ETag"]

    assert again(client, path, header.format(etag)).status_code == 304


def test_a_task_that_changed_is_sent(client: ApiClient, path: str) -> None:
    etag = client.get(path)["ETag"]
    take_one(get_broker(), "simple")

    answer = again(client, path, etag)

    assert answer.status_code == 200
    assert answer["ETag"] != etag
    assert json.loads(answer.content)["info"]["state"] == "active"


def test_a_task_that_a_client_knows_and_still_waits_for_is_sent(client: ApiClient, path: str) -> None:
    etag = client.get(path)["ETag"]

    answer = again(client, f"{path}?wait=0.1", etag)

    assert answer.status_code == 202
    assert not answer.has_header("ETag")


def test_a_task_that_is_gone_is_gone_for_whoever_had_it(client: ApiClient) -> None:
    assert again(client, "/queue/nowhere", "*").status_code == 404
