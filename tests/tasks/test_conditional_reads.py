"""A client with the current version of a task is not sent it again."""

import json

import pytest

from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, Response
from tests.support.tasks import take_one


@pytest.fixture
def path(client: ApiClient) -> str:
    """Return where a task is."""
    added = client.post("/queue/add", {"queue": "simple", "data": {}})
    return f"/queue/{json.loads(added.content)['info']['id']}"


def again(client: ApiClient, path: str, etag: str) -> Response:
    """Read a task unless it is as it was."""
    return client.get(path, **{"If-None-Match": etag})


def test_a_task_that_did_not_change_is_not_sent_again(client: ApiClient, path: str) -> None:
    first = client.get(path)

    second = again(client, path, first["ETag"])

    assert first.status_code == 200
    assert (second.status_code, second.content, second["ETag"]) == (304, b"", first["ETag"])


@pytest.mark.parametrize("header", ["W/{}", '"other", {}', "*"])
def test_all_forms_of_if_none_match_are_accepted(client: ApiClient, path: str, header: str) -> None:
    etag = client.get(path)["ETag"]

    assert again(client, path, header.format(etag)).status_code == 304


def test_a_task_that_changed_is_sent(client: ApiClient, path: str) -> None:
    etag = client.get(path)["ETag"]
    take_one(get_broker(), "simple")

    response = again(client, path, etag)

    assert response.status_code == 200
    assert response["ETag"] != etag
    assert json.loads(response.content)["info"]["state"] == "active"


def test_a_wait_returns_the_task_even_if_it_is_unchanged(client: ApiClient, path: str) -> None:
    etag = client.get(path)["ETag"]

    response = again(client, f"{path}?wait=0.1", etag)

    assert response.status_code == 202
    assert not response.has_header("ETag")


def test_a_deleted_task_is_not_found_with_if_none_match(client: ApiClient) -> None:
    assert again(client, "/queue/nowhere", "*").status_code == 404
