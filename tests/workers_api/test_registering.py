"""POST /worker/register: what a worker gets, and who gets nothing."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from queues.definitions import Deployment, QueueMode, StatedLimits
from queues.models import Source
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.addresses import parse_redis_url
from runqy.broker import deliveries
from tests.api.client import ApiClient, problem
from tests.publication.support import away
from tests.queues.samples import spec
from tests.support.canary import SUITE
from tests.support.environment import CLIENT_KEY, SERVER, WORKER_KEY
from vaults.crypto import Keyring, new_master_key
from vaults.deliveries import store_deliveries
from vaults.models import VaultDelivery
from vaults.names import EntryUsage
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
    for made in (
        spec("simple", deployment=replace(DEPLOYMENT, vaults=(), git_token="")),
        spec("inference", "high:10", "low:3", deployment=DEPLOYMENT, limits=StatedLimits(retry_delay_s=3)),
        spec("oneshot", mode=QueueMode.ONE_SHOT),
        spec("orphan", deployment=replace(DEPLOYMENT, vaults=("gone",), git_token="")),
        spec("tokenless", deployment=replace(DEPLOYMENT, vaults=(), git_token="vault://general/GONE")),
        spec("off", is_enabled=False),
    ):
        save_queue(spec=made, source=Source.API)
    return ApiClient(WORKER_KEY)


def registered(client: ApiClient, **body: Any) -> dict[str, Any]:
    """Register a worker and return the answer."""
    answer = client.post("/worker/register", body)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = json.loads(answer.content)
    return found


def test_a_worker_gets_redis_deployment_and_decrypted_vaults(client: ApiClient) -> None:
    found = registered(client, worker_id="w-1", queue="inference")

    assert (found["worker_id"], found["lease_secs"]) == ("w-1", 30)
    assert found["redis"]["addr"] == f"127.0.0.1:{SERVER.port}"
    assert (found["redis"]["password"], found["redis"]["db"], found["redis"]["use_tls"]) == ("", 0, False)
    assert found["queue"] == {
        "name": "inference",
        "priority": 10,
        "mode": "long_running",
        "order": "weighted",
        "revision": found["queue"]["revision"],
        "rollout": None,
    }
    assert found["deployment"] == {
        "git_url": "https://github.com/example/repo.git",
        "branch": "main",
        "code_path": "",
        "startup_cmd": "python main.py",
        "mode": "long_running",
        "startup_timeout_secs": 60,
        "requirements_file": "requirements.txt",
        "env_vars": {"LOG_LEVEL": "info"},
        "redis_storage": True,
        "vaults": ["general", "special"],
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


def test_the_revision_is_what_redis_tells_workers(client: ApiClient) -> None:
    found = registered(client, queue="inference")

    with SERVER.client() as redis:
        assert redis.hget("runqy:revisions", "inference").decode() == found["queue"]["revision"]


def test_a_change_made_in_another_process_is_in_the_very_next_registration(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = registered(client, queue="inference")
    monkeypatch.setattr("runqy.publication.snapshot.refresh", lambda: None)

    set_entry(vault="special", key="MODEL", value="huge")
    after = registered(client, queue="inference")

    assert after["vaults"]["MODEL"] == "huge"
    assert after["queue"]["revision"] != before["queue"]["revision"]


def test_one_shot_is_told_in_both_places(client: ApiClient) -> None:
    found = registered(client, queue="oneshot")

    assert (found["queue"]["mode"], found["deployment"]["mode"]) == ("one_shot", "one_shot")


def test_workers_are_told_the_redis_that_they_reach(client: ApiClient, settings: Any) -> None:
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


def test_an_answer_with_secrets_is_kept_out_of_caches(client: ApiClient) -> None:
    answer = client.post("/worker/register", {"queue": "inference"})

    assert answer["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("queue", "missing"), [("orphan", "gone"), ("tokenless", "GONE")])
def test_a_vault_or_entry_that_is_missing_is_named(client: ApiClient, queue: str, missing: str) -> None:
    answer = client.post("/worker/register", {"queue": queue})

    found = problem(answer)
    assert (answer.status_code, found["code"]) == (503, "vault_unavailable")
    assert missing in found["detail"]
    assert answer["Retry-After"]


def test_all_that_is_missing_or_does_not_open_is_named_at_once_and_no_value(client: ApiClient, settings: Any) -> None:
    deployment = replace(DEPLOYMENT, vaults=("gone", "general"), git_token="vault://lost/TOKEN")
    save_queue(spec=spec("troubled", deployment=deployment), source=Source.API)
    needed = Keyring.parse(settings.RUNQY_VAULT_MASTER_KEY).first_id.hex()
    settings.RUNQY_VAULT_MASTER_KEY = new_master_key()

    answer = client.post("/worker/register", {"queue": "troubled"})

    errors = problem(answer)["errors"]
    assert (answer.status_code, len(errors)) == (503, 4)
    for named, error in zip(["vault gone", "general/MODEL", "general/TOKEN", "vault lost"], errors, strict=True):
        assert named in error
    assert needed in errors[1]
    assert not re.search(f"small|{GIT_TOKEN}", answer.content.decode())


def test_a_queue_is_served_as_soon_as_its_vault_is_mended(client: ApiClient) -> None:
    refused = client.post("/worker/register", {"queue": "orphan"})

    create_vault(name="gone")
    set_entry(vault="gone", key="A", value="1")

    assert refused.status_code == 503
    assert registered(client, queue="orphan")["vaults"] == {"A": "1"}


def test_what_is_handed_out_is_recorded_with_the_key_and_the_address(client: ApiClient) -> None:
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
def test_registering_asks_no_database(django_assert_num_queries: Any) -> None:
    client = ApiClient(WORKER_KEY)
    registered(client, queue="inference")

    with django_assert_num_queries(0):
        registered(client, queue="inference")


def test_secrets_whose_delivery_cannot_be_recorded_are_not_handed_out(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_WAITING", 1)
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
    answer = client.post("/worker/register", {"queue": "off"})

    assert (answer.status_code, problem(answer)["code"]) == (409, "queue_disabled")


@pytest.mark.parametrize("name", ["nope", " simple ", "a\0b", "x" * 256])
def test_an_unknown_queue_is_not_found(client: ApiClient, name: str) -> None:
    answer = client.post("/worker/register", {"queue": name})

    assert (answer.status_code, problem(answer)["code"]) == (404, "queue_not_found")


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
    answer = client.post("/worker/register", body)

    assert answer.status_code == 400
    assert [error.split(":")[0] for error in problem(answer)["errors"]] == names


def test_a_clients_key_may_not_register(client: ApiClient) -> None:
    answer = ApiClient(CLIENT_KEY).post("/worker/register", {"queue": "simple"})

    assert (answer.status_code, problem(answer)["code"]) == (403, "forbidden")


def test_no_key_is_asked_for_one(client: ApiClient) -> None:
    answer = ApiClient(None).post("/worker/register", {"queue": "simple"})

    assert answer.status_code == 401


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
    save_queue(spec=spec("tokened", deployment=deployment), source=Source.API)

    refused = limited_to("special").post("/worker/register", {"queue": "tokened"})

    assert "needs general:" in problem(refused)["detail"]


def test_a_live_worker_id_is_registered_again_by_its_own_key_alone(client: ApiClient) -> None:
    first, second = (ApiClient(create_api_key(name="gpu", role="worker").plain) for _ in range(2))
    registered(first, worker_id="w-1", queue="inference")

    refused = [other.post("/worker/register", {"worker_id": "w-1", "queue": "inference"}) for other in (second, client)]

    assert [(answer.status_code, problem(answer)["code"]) for answer in refused] == [(409, "worker_id_taken")] * 2
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
