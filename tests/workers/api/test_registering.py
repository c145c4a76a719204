"""POST /worker/register: the response, and refusals."""

import json
import re
import uuid
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from queues.definitions import Deployment, LimitOverrides, QueueMode
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.api import throttling
from runqy.api.throttling import registration_limiter
from runqy.broker.streams import write_behind
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.core.api_keys import Identity, Role
from runqy.core.environment.connection_urls import parse_redis_url
from runqy.core.formats.durations import Rate
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, problem
from tests.configuration.support import away, elsewhere
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.environment import CLIENT_KEY, SERVER, WORKER_KEY
from tests.support.secret_leaks import SUITE
from tests.workers.api.test_workers import RECORD
from vaults.access_log import store_deliveries
from vaults.crypto import Keyring, generate_master_key
from vaults.entry_rules import EntryUsage
from vaults.models import VaultDelivery
from vaults.operations import create_vault, set_entry

GIT_TOKEN = SUITE.secret("ghp_")
DEPLOYMENT = Deployment(
    git_url="https://github.com/example/repo.git",
    startup_cmd="python main.py",
    vaults=("general", "special"),
    git_token="vault://general/TOKEN",
    env_vars={"LOG_LEVEL": "info"},
)


@pytest.fixture
def client(configuration: None) -> ApiClient:
    """Return a client with the worker's key; there are queues and vaults."""
    for vault in ("general", "special"):
        create_vault(name=vault)
    set_entry(vault="general", key="TOKEN", value=GIT_TOKEN, usage=EntryUsage.BOTH, git_hosts=["github.com"])
    set_entry(vault="general", key="MODEL", value="small")
    set_entry(vault="special", key="MODEL", value="large")
    store_queues(
        spec("simple", deployment=replace(DEPLOYMENT, vaults=(), git_token="")),
        spec("inference", "high:10", "low:3", deployment=DEPLOYMENT, limits=LimitOverrides(retry_delay_s=3)),
        spec("oneshot", mode=QueueMode.ONE_SHOT),
        spec("orphan", deployment=replace(DEPLOYMENT, vaults=("gone",), git_token="")),
        spec("tokenless", deployment=replace(DEPLOYMENT, vaults=(), git_token="vault://general/GONE")),
        spec("off", is_enabled=False),
    )
    return ApiClient(WORKER_KEY)


def registered(client: ApiClient, **body: Any) -> dict[str, Any]:
    """Register a worker and return the response."""
    response = client.post("/worker/register", body)
    assert response.status_code == 200, response.content
    found: dict[str, Any] = json.loads(response.content)
    return found


def test_a_worker_gets_redis_deployment_and_decrypted_vaults(client: ApiClient) -> None:
    found = registered(client, worker_id="w-1", queue="inference")

    assert (found["worker_id"], found["lease_secs"], found["archive_max_tasks"]) == ("w-1", 30, 10_000)
    assert found["task_output"] is True
    assert found["redis"]["addr"] == f"127.0.0.1:{SERVER.port}"
    assert (found["redis"]["password"], found["redis"]["db"], found["redis"]["use_tls"]) == ("", 0, False)
    assert found["queue"] == {
        "name": "inference",
        "priority": 10,
        "mode": "long_running",
        "order": "weighted",
        "revision": found["queue"]["revision"],
    }
    assert found["deployment"] == {
        "git_url": "https://github.com/example/repo.git",
        "branch": "main",
        "code_path": "",
        "startup_cmd": "python main.py",
        "mode": "long_running",
        "startup_timeout_secs": 1800,
        "startup_silence_secs": 600,
        "child_concurrency": None,
        "requirements_file": "requirements.txt",
        "env_vars": {"LOG_LEVEL": "info"},
        "redis_storage": True,
        "hide_payloads": False,
        "vaults": ["general", "special"],
        "replace_first": False,
    }
    assert found["limits"]["retry_delay_secs"] == 3
    assert found["git_token"] == GIT_TOKEN


def test_a_later_vault_overrides_an_earlier_one(client: ApiClient) -> None:
    found = registered(client, queue="inference")

    assert found["vaults"] == {"TOKEN": GIT_TOKEN, "MODEL": "large"}


def test_a_queue_without_sub_queues_is_listed_itself_and_has_no_secrets(client: ApiClient) -> None:
    found = registered(client, queue="simple")

    assert found["sub_queues"] == [{"name": "simple", "priority": 5}]
    assert found["vaults"] == {}
    assert "git_token" not in found


def test_a_queues_own_name_means_all_its_sub_queues(client: ApiClient) -> None:
    found = registered(client, queue="inference")

    assert found["sub_queues"] == [{"name": "inference_high", "priority": 10}, {"name": "inference_low", "priority": 3}]


@pytest.mark.parametrize("name", ["inference.low", "inference_low"])
def test_a_sub_queues_name_means_only_that_one(client: ApiClient, name: str) -> None:
    found = registered(client, queue=name)

    assert found["sub_queues"] == [{"name": "inference_low", "priority": 3}]
    assert (found["queue"]["name"], found["queue"]["priority"]) == ("inference", 3)


def test_a_worker_without_an_id_is_given_one(client: ApiClient) -> None:
    body = {"queue": "simple", "hostname": "vm", "os": "linux", "version": "dev"}

    first, second = registered(client, **body), registered(client, **body)

    assert first["worker_id"] != second["worker_id"]
    assert first["worker_id"]


@pytest.mark.parametrize("missing", [None, ""])
def test_optional_members_may_be_null_or_empty_and_unknown_ones_are_ignored(client: ApiClient, missing: Any) -> None:
    body = dict.fromkeys(("worker_id", "hostname", "os", "version"), missing)

    found = registered(client, queue="simple", gpus=[{"memory": 24}], **body)

    assert found["worker_id"].startswith("worker-")


def test_the_revision_equals_the_token_in_redis(client: ApiClient) -> None:
    found = registered(client, queue="inference")

    with SERVER.client() as redis:
        assert redis.hget("runqy:revisions", "inference").decode() == found["queue"]["revision"]


def test_a_change_made_in_another_process_is_in_the_very_next_registration(client: ApiClient) -> None:
    before = registered(client, queue="inference")

    with elsewhere():
        set_entry(vault="special", key="MODEL", value="huge")
    after = registered(client, queue="inference")

    assert after["vaults"]["MODEL"] == "huge"
    assert after["queue"]["revision"] != before["queue"]["revision"]


def test_a_key_whose_revocation_is_committed_registers_no_worker(client: ApiClient) -> None:
    key = create_api_key(name="gpu", role=Role.WORKER)
    register = partial(ApiClient(key.plain).post, "/worker/register", {"queue": "inference"})
    before = register()

    with elsewhere():
        revoke_api_key(key_id=key.row.pk)

    assert before.status_code == 200
    assert problem(register())["detail"] == "This API key is revoked."


def test_one_shot_is_in_both_members_of_the_response(client: ApiClient) -> None:
    found = registered(client, queue="oneshot")

    assert (found["queue"]["mode"], found["deployment"]["mode"]) == ("one_shot", "one_shot")


def test_workers_get_the_address_of_redis_that_they_can_reach(client: ApiClient, settings: Any) -> None:
    url = "rediss+sentinel://w:secret@[::1]:1,b:2/3?master=m&sentinel_password=s"
    settings.RUNQY_WORKER_REDIS_TARGET = parse_redis_url(url)

    found = registered(client, queue="simple")["redis"]

    assert found == {
        "addr": "[::1]:1",
        "addresses": ["[::1]:1", "b:2"],
        "mode": "sentinel",
        "username": "w",
        "password": "secret",
        "db": 3,
        "use_tls": True,
        "master_name": "m",
        "ca_certificate": "",
        "sentinel_username": "",
        "sentinel_password": "s",
    }


def test_a_response_with_secrets_is_not_cached(client: ApiClient) -> None:
    response = client.post("/worker/register", {"queue": "inference"})

    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("queue", "missing"), [("orphan", "gone"), ("tokenless", "GONE")])
def test_a_vault_or_entry_that_is_missing_is_named(client: ApiClient, queue: str, missing: str) -> None:
    response = client.post("/worker/register", {"queue": queue})

    found = problem(response)
    assert (response.status_code, found["code"]) == (503, "vault_unavailable")
    assert missing in found["detail"]
    assert response["Retry-After"]


def test_a_worker_that_is_refused_a_vault_is_listed_with_the_reason_until_it_reports_itself(client: ApiClient) -> None:
    broker, admin = get_broker(), ApiClient()
    body = {"queue": "orphan", "worker_id": "w-1", "accepts": ["redis_acl"], "instance_id": str(uuid.uuid4())}
    refused = client.post("/worker/register", body)

    (found,) = json.loads(admin.get("/workers").content)["workers"]
    broker.run(write_heartbeat(replace(RECORD, worker_id="w-1"), now_ns=broker.now_ns()))
    client.post("/worker/register", body)
    (reported,) = json.loads(admin.get("/workers").content)["workers"]

    assert (found["queue"], found["state"], found["redis_queues"]) == ("orphan", "starting", {})
    assert found["reason"] == problem(refused)["detail"]
    assert reported["state"] == "ready"


def test_a_worker_that_is_refused_for_another_reason_is_listed_too(client: ApiClient, settings: Any) -> None:
    key = create_api_key(name="few", role="worker", queues=["inference"]).plain
    settings.RUNQY_WORKER_ACL = "off"
    body = {"queue": "inference", "worker_id": "w-1", "accepts": ["redis_acl"], "instance_id": str(uuid.uuid4())}

    refused = ApiClient(key).post("/worker/register", body)

    (found,) = json.loads(ApiClient().get("/workers").content)["workers"]
    assert refused.status_code == 403
    assert (found["queue"], found["reason"]) == ("inference", problem(refused)["detail"])


def test_all_missing_and_undecryptable_vaults_are_named_without_values(client: ApiClient, settings: Any) -> None:
    deployment = replace(DEPLOYMENT, vaults=("gone", "general"), git_token="vault://lost/TOKEN")
    save_queue(spec=spec("troubled", deployment=deployment), source=QueueSource.API)
    needed = Keyring.parse(settings.RUNQY_VAULT_MASTER_KEY).first_id.hex()
    settings.RUNQY_VAULT_MASTER_KEY = generate_master_key()

    response = client.post("/worker/register", {"queue": "troubled"})

    errors = problem(response)["errors"]
    assert (response.status_code, len(errors)) == (503, 4)
    for named, error in zip(["vault gone", "general/MODEL", "general/TOKEN", "vault lost"], errors, strict=True):
        assert named in error
    assert needed in errors[1]
    assert not re.search(f"small|{GIT_TOKEN}", response.content.decode())


def test_a_queue_is_served_as_soon_as_its_vault_is_fixed(client: ApiClient) -> None:
    refused = client.post("/worker/register", {"queue": "orphan"})

    create_vault(name="gone")
    set_entry(vault="gone", key="A", value="1")

    assert refused.status_code == 503
    assert registered(client, queue="orphan")["vaults"] == {"A": "1"}


def test_a_delivery_is_recorded_with_the_key_and_the_address(client: ApiClient) -> None:
    registered(client, worker_id="w-1", queue="inference.low")
    registered(client, worker_id="w-2", queue="simple")
    store_deliveries()

    records = {record.vault: record for record in VaultDelivery.objects.all()}
    assert {vault: record.versions for vault, record in records.items()} == {
        "general": {"TOKEN": 1},
        "special": {"MODEL": 1},
    }
    for record in records.values():
        assert (record.worker_id, record.queue) == ("w-1", "inference")
        assert (record.key_name, record.address) == ("worker key of the environment", "127.0.0.1")


def test_a_worker_without_an_id_is_recorded_under_the_one_it_is_given(client: ApiClient) -> None:
    found = registered(client, queue="inference")
    store_deliveries()

    assert {record.worker_id for record in VaultDelivery.objects.all()} == {found["worker_id"]}


@pytest.mark.usefixtures("client")
def test_registering_reads_newer_configuration_in_one_query(django_assert_num_queries: Any) -> None:
    client = ApiClient(WORKER_KEY)
    registered(client, queue="inference")

    with django_assert_num_queries(1):  # by the polling thread, where there is one
        registered(client, queue="inference")


def test_secrets_are_not_delivered_unless_the_delivery_is_recorded(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind, "MAX_DELIVERIES", 1)
    registered(client, queue="inference")

    refused = client.post("/worker/register", {"queue": "inference"})

    assert (refused.status_code, problem(refused)["code"]) == (503, "delivery_not_recorded")
    assert refused["Retry-After"]
    assert "large" not in refused.content.decode()
    assert client.post("/worker/register", {"queue": "simple"}).status_code == 200


def test_without_redis_only_queues_with_vaults_are_refused(client: ApiClient, settings: Any) -> None:
    registered(client, queue="simple")
    settings.REDIS_TARGET = away()

    refused = client.post("/worker/register", {"queue": "inference"})

    assert (refused.status_code, problem(refused)["code"]) == (503, "broker_unavailable")
    assert client.post("/worker/register", {"queue": "simple"}).status_code == 200


def test_without_a_master_key_only_queues_with_vaults_are_refused(client: ApiClient, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    refused = client.post("/worker/register", {"queue": "inference"})

    assert (refused.status_code, problem(refused)["code"]) == (503, "vaults_locked")
    assert client.post("/worker/register", {"queue": "simple"}).status_code == 200


def test_a_disabled_queue_is_a_conflict(client: ApiClient) -> None:
    response = client.post("/worker/register", {"queue": "off"})

    assert (response.status_code, problem(response)["code"]) == (409, "queue_disabled")


@pytest.mark.parametrize("name", ["nope", " simple ", "a\0b", "x" * 256])
def test_an_unknown_queue_is_not_found(client: ApiClient, name: str) -> None:
    response = client.post("/worker/register", {"queue": name})

    assert (response.status_code, problem(response)["code"]) == (404, "queue_not_found")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, ["queue"]),
        ({"queue": 5}, ["queue"]),
        ({"queue": None}, ["queue"]),
        ({"queue": ""}, ["queue"]),
        ({"queue": "x" * 257}, ["queue"]),
        ({"queue": "simple", "worker_id": "with space"}, ["worker_id"]),
        ({"queue": "simple", "worker_id": "line\n"}, ["worker_id"]),
        ({"queue": "simple", "worker_id": 5}, ["worker_id"]),
        ({"queue": "simple", "worker_id": "x" * 129}, ["worker_id"]),
        ({"queue": "simple", "hostname": ["vm"]}, ["hostname"]),
    ],
)
def test_a_wrong_body_is_refused_by_name(client: ApiClient, body: dict[str, Any], names: list[str]) -> None:
    response = client.post("/worker/register", body)

    assert response.status_code == 400
    assert [error.split(":")[0] for error in problem(response)["errors"]] == names


def test_a_key_is_not_required_to_be_unique(client: ApiClient) -> None:
    response = ApiClient(None).post("/worker/register", {"queue": "simple"})

    assert response.status_code == 401


def limited_to(*vaults: str) -> ApiClient:
    """Return a client with a worker's key that is limited to vaults."""
    return ApiClient(create_api_key(name="gpu", role="worker", vaults=vaults).plain)


def test_a_key_of_some_vaults_serves_queues_that_need_no_others(client: ApiClient) -> None:
    both = limited_to("general", "special", "unused")

    assert registered(both, queue="inference")["vaults"] == {"TOKEN": GIT_TOKEN, "MODEL": "large"}
    assert registered(limited_to("unused"), queue="simple")["vaults"] == {}


@pytest.mark.parametrize(("allowed", "named"), [("general", "needs special"), ("unused", "needs general, special")])
def test_a_queue_that_needs_another_vault_is_refused_by_name(client: ApiClient, allowed: str, named: str) -> None:
    refused = limited_to(allowed).post("/worker/register", {"queue": "inference"})

    assert (refused.status_code, problem(refused)["code"]) == (403, "forbidden")
    assert f"This key is limited to vaults, and the queue inference {named}:" in problem(refused)["detail"]
    store_deliveries()
    assert not VaultDelivery.objects.exists()


def test_the_vault_of_the_git_token_counts_too(client: ApiClient) -> None:
    deployment = replace(DEPLOYMENT, vaults=("special",))
    save_queue(spec=spec("tokened", deployment=deployment), source=QueueSource.API)

    refused = limited_to("special").post("/worker/register", {"queue": "tokened"})

    assert "needs general:" in problem(refused)["detail"]


def test_a_live_worker_id_is_registered_again_by_its_own_key_alone(client: ApiClient) -> None:
    first, second = (ApiClient(create_api_key(name="gpu", role="worker").plain) for _ in range(2))
    registered(first, worker_id="w-1", queue="inference")

    refused = [other.post("/worker/register", {"worker_id": "w-1", "queue": "inference"}) for other in (second, client)]

    assert [(response.status_code, problem(response)["code"]) for response in refused] == [(409, "worker_id_taken")] * 2
    assert registered(first, worker_id="w-1", queue="inference")
    assert registered(second, worker_id="w-2", queue="inference")
    store_deliveries()
    assert {row.worker_id for row in VaultDelivery.objects.all()} == {"w-1", "w-2"}


def test_a_token_that_may_not_be_sent_to_the_repository_is_named(client: ApiClient) -> None:
    set_entry(vault="general", key="TOKEN", value=GIT_TOKEN, git_hosts=["gitlab.com"])

    refused = client.post("/worker/register", {"queue": "inference"})

    assert (refused.status_code, problem(refused)["code"]) == (503, "vault_unavailable")
    assert (
        "vault://general/TOKEN is only for gitlab.com, and may not be sent to github.com" in problem(refused)["detail"]
    )
    assert GIT_TOKEN not in refused.content.decode()


def test_a_key_that_registers_too_often_gets_a_retry_after(client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "REGISTRATION_LIMIT", Rate(2, 3600))
    other = ApiClient(create_api_key(name="gpu", role="worker").plain)

    responses = [client.post("/worker/register", {"queue": "simple"}) for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 429]
    assert problem(responses[2])["code"] == "rate_limited"
    assert 1500 <= int(responses[2]["Retry-After"]) <= 1800
    assert other.post("/worker/register", {"queue": "simple"}).status_code == 200


@pytest.mark.usefixtures("client")
def test_two_hundred_workers_of_five_queues_may_register_at_once() -> None:
    limiter = registration_limiter(Identity(role=Role.WORKER, name="gpu"))

    for _ in range(1000):
        get_broker().run(limiter.count(get_broker()))

    assert limiter.headers["RateLimit"].startswith('"registrations";r=')


@pytest.mark.parametrize("setting", [{"RUNQY_TASK_OUTPUT": False}, {"RUNQY_HIDE_PAYLOADS": True}])
def test_workers_keep_no_output_when_it_is_off_or_payloads_are_hidden(
    client: ApiClient, settings: Any, setting: dict[str, bool]
) -> None:
    for name, value in setting.items():
        setattr(settings, name, value)

    assert registered(client, worker_id="w-1", queue="inference")["task_output"] is False


def test_the_queues_that_a_key_may_register_for_are_listed(client: ApiClient) -> None:
    limited = create_api_key(name="l", role=Role.WORKER, queues=["simple", "off", "inference"], vaults=["general"])

    every = client.get("/worker/queues")

    assert json.loads(every.content) == {"queues": ["inference", "oneshot", "orphan", "simple", "tokenless"]}
    assert json.loads(ApiClient(limited.plain).get("/worker/queues").content) == {"queues": ["simple"]}
    assert [ApiClient(key).get("/worker/queues").status_code for key in (CLIENT_KEY, "wrong")] == [403, 401]
