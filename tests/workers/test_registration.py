"""What a worker makes of the server's answer."""

import uuid
from typing import Any

import msgspec
import pytest

from runqy.errors import QueueDisabled, RegistrationRefused, ServerUnavailable
from tests.support.servers import free_port
from tests.workers.fake_server import API_KEY, FakeServer, registration_answer
from workers.runtime.registration import Registration
from workers.runtime.registration_client import RegistrationClient


def registration(**changes: Any) -> Registration:
    answer = registration_answer(redis_port=6379, git_url="file:///r") | changes
    return msgspec.json.decode(msgspec.json.encode(answer), type=Registration)


def client_of(server_url: str) -> RegistrationClient:
    return RegistrationClient(server_url=server_url, api_key=API_KEY, worker_id="w1", instance_id=str(uuid.uuid4()))


def register(server: FakeServer) -> Registration:
    return client_of(server.url).register("mail")


def test_an_answer_with_the_reference_s_fields_only_is_enough() -> None:
    answer = registration(
        redis={"addr": "localhost:6379", "password": "", "db": 0},
        queue={"name": "inference", "priority": 6, "mode": "one_shot"},
        deployment={"git_url": "https://h/r.git", "branch": "main", "startup_cmd": "python main.py"},
        sub_queues=None,
        vaults=None,
    )

    assert answer.priorities == {"inference": 6}
    assert answer.is_one_shot
    assert answer.redis.target.addresses == (("localhost", 6379),)
    assert answer.token == ""


def test_a_sub_queue_without_priority_is_not_served() -> None:
    answer = registration(sub_queues=[{"name": "mail_high", "priority": 3}, {"name": "mail_off", "priority": 0}])

    assert answer.priorities == {"mail_high": 3}


def test_a_cluster_is_described_by_its_nodes() -> None:
    redis = {"addr": "a:1", "mode": "cluster", "addresses": ["a:1", "[::1]:2"], "username": "u", "use_tls": True}

    target = registration(redis=redis).redis.target

    assert (target.mode, target.addresses) == ("cluster", (("a", 1), ("::1", 2)))
    assert (target.username, target.use_tls) == ("u", True)


@pytest.mark.parametrize(
    "change", [{"git_url": "file:///s"}, {"branch": "next"}, {"code_path": "a"}, {"requirements_file": "r.txt"}]
)
def test_a_change_of_where_the_code_is_deploys_anew(change: dict[str, Any]) -> None:
    answer = registration_answer(redis_port=6379, git_url="file:///r")

    assert not registration().deploys_like(registration(deployment=answer["deployment"] | change))


def test_another_git_token_deploys_anew() -> None:
    assert not registration(git_token="one").deploys_like(registration(git_token="two"))


@pytest.mark.parametrize(
    "changes",
    [
        {"vaults": {"A": "1"}},
        {"limits": {"retry_delay_secs": 99}},
        {"sub_queues": [{"name": "mail", "priority": 9}]},
    ],
)
def test_a_change_of_vaults_limits_or_priorities_goes_on_with_the_code_there_is(changes: dict[str, Any]) -> None:
    assert registration().deploys_like(registration(**changes))


@pytest.mark.parametrize(
    "change", [{"env_vars": {"A": "1"}}, {"startup_cmd": "python main.py -v"}, {"startup_timeout_secs": 99}]
)
def test_a_change_of_how_children_are_started_goes_on_with_the_code_there_is(change: dict[str, Any]) -> None:
    answer = registration_answer(redis_port=6379, git_url="file:///r")

    assert registration().deploys_like(registration(deployment=answer["deployment"] | change))


def test_secrets_do_not_show_in_a_representation() -> None:
    answer = registration(redis={"addr": "h:1", "password": "planted1"}, vaults={"A": "planted2"}, git_token="planted3")

    assert "planted" not in repr(answer)
    assert "planted" not in repr(answer.redis)
    assert sorted(answer.secrets) == ["planted1", "planted2", "planted3"]


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
def test_a_status_says_whether_asking_again_is_of_use(server: FakeServer, status: int, error: type[Exception]) -> None:
    server.status = status

    with pytest.raises(error, match=f"the server says {status}"):
        register(server)


@pytest.mark.parametrize(("code", "variable"), [("queue_not_found", "RUNQY_QUEUES"), ("not_found", "RUNQY_SERVER_URL")])
def test_what_is_not_there_is_told_from_where_nothing_is(server: FakeServer, code: str, variable: str) -> None:
    server.status, server.code = 404, code

    with pytest.raises(RegistrationRefused, match=rf"Check {variable}\.$"):
        register(server)


@pytest.mark.parametrize("broken", [{"redis": {"addr": "no port"}}, {"deployment": {}}, {"queue": None}])
def test_an_answer_that_makes_no_sense_is_refused(server: FakeServer, broken: dict[str, Any]) -> None:
    server.answer |= broken

    with pytest.raises(RegistrationRefused, match="not one to a registration"):
        register(server)


def test_a_server_that_is_away_is_asked_again() -> None:
    registrar = client_of(f"http://127.0.0.1:{free_port()}")

    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        registrar.register("mail")
