"""Decoding the server's response to a registration."""

import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runqy.errors import QueueDisabled, RegistrationRefused, ServerUnavailable
from tests.support.servers import free_port
from tests.workers.fake_server import API_KEY, FakeServer, registration_response
from workers.runtime import registration as registering
from workers.runtime.registration import RegisteredWorker
from workers.runtime.settings import WorkerSettings


def registration(**changes: Any) -> RegisteredWorker:
    response = registration_response(redis_port=6379, git_url="file:///r") | changes
    return msgspec.json.decode(msgspec.json.encode(response), type=RegisteredWorker)


def register_at(server_url: str) -> RegisteredWorker:
    settings = WorkerSettings(server_url=server_url, api_key=API_KEY, queues=("mail",), deployment_dir=Path("unused"))
    return registering.register(settings, "mail", worker_id="w1", instance_id=str(uuid.uuid4()))


def register(server: FakeServer) -> RegisteredWorker:
    return register_at(server.url)


def test_a_response_with_only_the_documented_fields_is_enough() -> None:
    response = registration(
        redis={"addr": "localhost:6379", "password": "", "db": 0},
        queue={"name": "inference", "priority": 6, "mode": "one_shot"},
        deployment={"git_url": "https://h/r.git", "branch": "main", "startup_cmd": "python main.py"},
        sub_queues=None,
        vaults=None,
    )

    assert response.priorities == {"inference": 6}
    assert response.is_one_shot
    assert response.redis.target.addresses == (("localhost", 6379),)
    assert response.revision == ""


def test_a_sub_queue_without_priority_is_not_served() -> None:
    response = registration(sub_queues=[{"name": "mail_high", "priority": 3}, {"name": "mail_off", "priority": 0}])

    assert response.priorities == {"mail_high": 3}


def test_a_cluster_is_described_by_its_nodes() -> None:
    redis = {"addr": "a:1", "mode": "cluster", "addresses": ["a:1", "[::1]:2"], "username": "u", "use_tls": True}

    target = registration(redis=redis).redis.target

    assert (target.mode, target.addresses) == ("cluster", (("a", 1), ("::1", 2)))
    assert (target.username, target.use_tls) == ("u", True)


@pytest.mark.parametrize(
    "change", [{"git_url": "file:///s"}, {"branch": "next"}, {"code_path": "a"}, {"requirements_file": "r.txt"}]
)
def test_a_change_of_the_codes_source_deploys_again(change: dict[str, Any]) -> None:
    response = registration_response(redis_port=6379, git_url="file:///r")

    assert not registration().deploys_like(registration(deployment=response["deployment"] | change))


def test_another_git_token_deploys_again() -> None:
    assert not registration(git_token="one").deploys_like(registration(git_token="two"))


@pytest.mark.parametrize(
    "changes",
    [
        {"vaults": {"A": "1"}},
        {"limits": {"retry_delay_secs": 99}},
        {"sub_queues": [{"name": "mail", "priority": 9}]},
    ],
)
def test_a_change_of_vaults_limits_or_priorities_keeps_the_deployed_code(changes: dict[str, Any]) -> None:
    assert registration().deploys_like(registration(**changes))


@pytest.mark.parametrize(
    "change", [{"env_vars": {"A": "1"}}, {"startup_cmd": "python main.py -v"}, {"startup_timeout_secs": 99}]
)
def test_a_change_of_how_children_are_started_keeps_the_deployed_code(change: dict[str, Any]) -> None:
    response = registration_response(redis_port=6379, git_url="file:///r")

    assert registration().deploys_like(registration(deployment=response["deployment"] | change))


def test_secrets_do_not_show_in_a_representation() -> None:
    response = registration(
        redis={"addr": "h:1", "password": "planted1"}, vaults={"A": "planted2"}, git_token="planted3"
    )

    assert "planted" not in repr(response)
    assert "planted" not in repr(response.redis)
    assert sorted(response.secrets) == ["planted1", "planted2", "planted3"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RegistrationRefused),
        (401, RegistrationRefused),
        (403, RegistrationRefused),
        (404, RegistrationRefused),
        (409, QueueDisabled),
        (429, ServerUnavailable),
        (500, ServerUnavailable),
        (503, ServerUnavailable),
    ],
)
def test_a_status_determines_whether_to_retry(server: FakeServer, status: int, error: type[Exception]) -> None:
    server.status = status

    with pytest.raises(error, match=f"the server responds {status}"):
        register(server)


@pytest.mark.parametrize(("code", "variable"), [("queue_not_found", "RUNQY_QUEUES"), ("not_found", "RUNQY_SERVER_URL")])
def test_a_missing_queue_differs_from_a_wrong_url(server: FakeServer, code: str, variable: str) -> None:
    server.status, server.code = 404, code

    with pytest.raises(RegistrationRefused, match=rf"Check {variable}\.$"):
        register(server)


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409])
def test_a_page_of_what_is_in_front_of_the_server_is_no_refusal(server: FakeServer, status: int) -> None:
    server.status, server.error_type = status, "text/html"

    with pytest.raises(ServerUnavailable, match=f"responded {status}.*This is no response of runqy"):
        register(server)


@pytest.mark.parametrize("broken", [{"redis": {"addr": "no port"}}, {"deployment": {}}, {"queue": None}])
def test_an_invalid_response_is_tried_again(server: FakeServer, broken: dict[str, Any]) -> None:
    server.response |= broken

    with pytest.raises(ServerUnavailable, match="response to the registration is invalid"):
        register(server)


def test_an_unreachable_server_is_tried_again() -> None:
    address = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        register_at(address)
