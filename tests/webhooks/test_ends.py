"""The end of a task is told to the endpoints of its queue and to its own webhook."""

import json
from typing import Any

import pytest
from standardwebhooks import Webhook

from queues.deletion import delete_queue
from queues.models import Queue, QueueSource
from queues.operations import change_queue, save_queue
from queues.webhook_secrets import rotate_queue_secret, show_queue_secret
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.streams.ends import MAX_RESULT_BYTES, EndOutcome, Notify, TaskEnd
from runqy.broker.streams.run_log import RunInfo
from runqy.broker.tasks.finish import archive, complete
from runqy.broker.tasks.inspector import archive_tasks, delete_tasks
from runqy.errors import VaultLocked
from tasks.duties import TaskEnds
from tasks.ends import CollectedEnd
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY, CLIENT_KEY
from tests.support.redis_client import redis_of
from tests.support.tasks import take_one
from tests.webhooks.receiver import Receiver, send_due
from vaults.models import SealedSecret
from webhooks.ends import prepare_deliveries
from webhooks.models import Delivery, Endpoint, EndpointEvent
from webhooks.operations import (
    create_endpoint,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]

QUEUE = "mail"


@pytest.fixture
def hosts(receiver: Receiver) -> list[str]:
    """A queue that allows the receiver for webhooks of its tasks."""
    hosts = [receiver.url.split("/")[2]]
    save_queue(spec=spec(QUEUE, webhook_hosts=tuple(hosts)), source=QueueSource.API)
    return hosts


def add(**members: object) -> Any:
    return ApiClient(CLIENT_KEY).post("/queue/add", {"queue": QUEUE, "data": {"n": 1}, **members})


def finish(broker: Broker, result: bytes = b'{"m":2}') -> None:
    taken = take_one(broker, QUEUE)
    broker.run(complete(taken.lease, taken.message, result, now_ns=broker.now_ns()))


def fail(broker: Broker) -> None:
    taken = take_one(broker, QUEUE)
    broker.run(archive(taken.lease, taken.message, error="no such file", now_ns=broker.now_ns()))


def tell(broker: Broker) -> int:
    TaskEnds().run_tick(broker)
    return send_due()


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in receiver.requests]


def test_an_endpoint_is_told_of_a_completed_task_as_a_client_reads_it(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    created = create_endpoint(url=receiver.url, events=["task.completed"], queues=[QUEUE], include_result=True)
    task = add().json()["info"]["id"]
    finish(single_broker)
    read = ApiClient(CLIENT_KEY).get(f"/queue/{task}").json()["info"]

    assert tell(single_broker) == 1

    ((headers, body),) = receiver.requests
    message = Webhook(created.secret).verify(body, headers)
    data = message["data"]
    assert (message["type"], data.pop("result_omitted"), data.pop("payload_omitted")) == (
        "task.completed",
        False,
        False,
    )
    assert data == read
    assert (data["result"], data["payload"]) == ({"m": 2}, {"n": 1})


def test_results_and_payloads_of_up_to_20_kib_are_in_the_message(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    """A string, because `GET /queue/{task_id}` returns its JSON text too."""
    create_endpoint(url=receiver.url, events=["task.completed"], include_result=True)
    read = {}
    for size in (MAX_RESULT_BYTES, MAX_RESULT_BYTES + 1):
        content = json.dumps("x" * (size - 2))
        task = add(data="x" * (size - 2)).json()["info"]["id"]
        finish(single_broker, content.encode())
        read[task] = ApiClient(CLIENT_KEY).get(f"/queue/{task}").json()["info"]

    assert tell(single_broker) == 2

    told = {body["data"]["id"]: body["data"] for body in bodies(receiver)}
    (small, whole), (large, full) = read.items()
    assert told[small] == whole | {"payload_omitted": False, "result_omitted": False}
    left_out = {"payload": None, "result": None, "payload_omitted": True, "result_omitted": True}
    del full["Result"]
    assert told[large] == full | left_out


def test_an_endpoint_without_results_gets_none_and_others_are_not_told(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    plain = create_endpoint(url=receiver.url, events=["task.completed"])
    create_endpoint(url=receiver.url, events=["task.archived"], include_result=True)
    add()
    finish(single_broker)

    assert tell(single_broker) == 1

    (body,) = bodies(receiver)
    assert (body["data"]["result"], body["data"]["result_omitted"]) == (None, True)
    assert Delivery.objects.get().endpoint == plain.row


def test_a_task_that_was_archived_on_request_says_so(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    create_endpoint(url=receiver.url, events=["task.archived"])
    task_id = add().json()["info"]["id"]
    single_broker.run(archive_tasks(QUEUE, [task_id], now_ns=single_broker.now_ns()))

    assert tell(single_broker) == 1

    (body,) = bodies(receiver)
    assert (body["data"]["id"], body["data"]["error"]) == (task_id, "archived on request")


def test_a_failed_task_that_was_deleted_since_keeps_its_error_and_class(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    create_endpoint(url=receiver.url, events=["task.archived"])
    add()
    taken = take_one(single_broker, QUEUE)
    info, now_ns = RunInfo(error_class="app.OutOfStock"), single_broker.now_ns()
    single_broker.run(archive(taken.lease, taken.message, error="no shoes", now_ns=now_ns, info=info))
    single_broker.run(delete_tasks(QUEUE, [taken.message.id]))

    assert tell(single_broker) == 1

    (body,) = bodies(receiver)
    data = body["data"]
    assert (data["error"], data["error_class"], data["payload_omitted"]) == ("no shoes", "app.OutOfStock", True)


def test_a_result_that_no_endpoint_wants_is_said_to_be_left_out(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    create_endpoint(url=receiver.url, events=["task.completed"])
    add()
    finish(single_broker)

    assert tell(single_broker) == 1

    (body,) = bodies(receiver)
    assert (body["data"]["result"], body["data"]["result_omitted"]) == (None, True)


def test_an_end_that_names_a_key_of_another_type_is_told_as_that_of_a_deleted_task(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    create_endpoint(url=receiver.url, events=["task.completed"])
    add()
    finish(single_broker)
    client, keys = redis_of(single_broker), QueueKeys(QUEUE)
    client.lpush(keys.task("evil"), "x")
    (_, entry), *_ = client.xrange(keys.ends)
    client.xadd(keys.ends, entry | {b"end": entry[b"end"].rpartition(b"\0")[0] + b"\0evil"})

    assert tell(single_broker) == 2

    assert {body["data"]["id"] for body in bodies(receiver)} > {"evil"}
    assert client.xlen(keys.ends) == 0


def test_only_tasks_that_are_enqueued_after_an_endpoint_are_told(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    add()
    first = create_endpoint(url=receiver.url, events=["task.completed"])
    add()
    create_endpoint(url=receiver.url, events=["task.completed"])
    finish(single_broker)
    finish(single_broker)

    assert tell(single_broker) == 1

    assert Delivery.objects.get().endpoint == first.row


def test_a_task_names_its_own_webhook(single_broker: Broker, receiver: Receiver, hosts: list[str]) -> None:
    response = add(webhook={"url": receiver.url, "events": ["task.archived"]})
    assert response.status_code == 200, response.content
    fail(single_broker)
    secret = show_queue_secret(QUEUE)

    assert tell(single_broker) == 1

    ((headers, body),) = receiver.requests
    message = Webhook(secret).verify(body, headers)
    assert (message["type"], message["data"]["error"]) == ("task.archived", "no such file")
    new = rotate_queue_secret(QUEUE)
    add(webhook={"url": receiver.url})
    finish(single_broker)
    assert tell(single_broker) == 1
    headers, body = receiver.requests[-1]
    assert {Webhook(each).verify(body, headers)["type"] for each in (secret, new)} == {"task.completed"}


@pytest.mark.parametrize(
    ("webhook", "error"),
    [
        ({"url": "https://other.example.com/x"}, "webhook_hosts"),
        ({"url": "ftp://hooks.example.com"}, "webhook: url"),
        ({"events": ["task.completed"]}, "webhook: Must be an object"),
        ({"url": "https://hooks.example.com", "secret": "a"}, "webhook: Must be an object"),
        ({"url": "https://hooks.example.com", "events": ["batch.ended"]}, "webhook: events"),
        ({"url": "https://hooks.example.com", "events": []}, "webhook: events"),
        ("https://hooks.example.com", "webhook: Must be an object"),
    ],
)
def test_a_wrong_webhook_is_refused(hosts: list[str], each_plane: str, webhook: object, error: str) -> None:
    response = add(webhook=webhook)

    assert response.status_code == 400
    assert error in response.json()["detail"]


def test_the_option_is_payload_in_a_flat_body(single_broker: Broker, hosts: list[str], each_plane: str) -> None:
    body = {"queue": QUEUE, "webhook": {"url": "https://other.example.com/x"}}

    assert ApiClient(CLIENT_KEY).post("/queue/add", body).status_code == 200

    assert json.loads(take_one(single_broker, QUEUE).message.payload) == {
        "webhook": {"url": "https://other.example.com/x"}
    }


def test_jobs_of_a_batch_name_webhooks(single_broker: Broker, receiver: Receiver, hosts: list[str]) -> None:
    body = {"queue": QUEUE, "jobs": [{"data": 1, "webhook": {"url": receiver.url}}, {"data": 2}, {"webhook": 3}]}

    assert ApiClient(CLIENT_KEY).post("/queue/add-batch", body).json()["enqueued"] == 3
    for _ in range(3):
        finish(single_broker)

    assert tell(single_broker) == 1


def test_hosts_are_checked_again_before_sending(single_broker: Broker, receiver: Receiver, hosts: list[str]) -> None:
    """A URL that a worker wrote into a stream, and one whose host was removed meanwhile, are not requested."""
    add(webhook={"url": receiver.url})
    finish(single_broker)
    change_queue(spec=spec(QUEUE))
    forged = Notify(url="http://127.0.0.1:1/x", events=("task.completed",))
    end = TaskEnd(
        task_id="t",
        end_id="e",
        outcome=EndOutcome.COMPLETED,
        ended_ns=10**18,
        notify=forged,
    )
    prepare_deliveries([CollectedEnd(end=end, entry_id="1-1", redis_queue=QUEUE, queue=QUEUE)])()

    assert tell(single_broker) == 0

    assert receiver.requests == []
    assert {delivery.state for delivery in Delivery.objects.all()} == {"failed"}
    assert all("webhook_hosts" in delivery.error for delivery in Delivery.objects.all())


def test_an_end_of_another_queue_is_told_to_nobody(receiver: Receiver, hosts: list[str]) -> None:
    endpoint = create_endpoint(url=receiver.url, events=["task.completed"], queues=[QUEUE]).row
    revision = Endpoint.objects.get().since[QUEUE]
    notify = Notify(endpoints=True, revision=revision + 10**6)
    end = TaskEnd(task_id="t", end_id="e", outcome=EndOutcome.COMPLETED, ended_ns=10**18, notify=notify)

    prepare_deliveries([CollectedEnd(end=end, entry_id="1-1", redis_queue="video", queue="video")])()
    assert not Delivery.objects.exists()

    collected = CollectedEnd(end=end, entry_id="1-1", redis_queue=QUEUE, queue=QUEUE)
    prepare_deliveries([collected])()
    prepare_deliveries([collected])()
    assert Delivery.objects.get().endpoint == endpoint
    assert json.loads(Delivery.objects.get().body)["data"]["payload_omitted"]


def test_payloads_of_a_queue_that_hides_them_are_left_out(
    single_broker: Broker, receiver: Receiver, hosts: list[str]
) -> None:
    deployment = spec(QUEUE).deployment
    hidden = type(deployment)(git_url=deployment.git_url, startup_cmd=deployment.startup_cmd, hide_payloads=True)
    change_queue(spec=spec(QUEUE, deployment=hidden))
    create_endpoint(url=receiver.url, events=list(EndpointEvent), include_result=True)
    add()
    finish(single_broker, b'"secret"')
    tell(single_broker)

    (body,) = bodies(receiver)
    assert (body["data"]["payload"], body["data"]["result"], body["data"]["result_omitted"]) == (None, None, True)
    assert "secret" not in Delivery.objects.get().body


def test_the_secret_of_a_queue_is_shown_once(hosts: list[str]) -> None:
    client, path = ApiClient(ADMIN_KEY), f"/api/cli/queues/{QUEUE}/webhook-secret"

    shown = client.post(path).json()["secret"]

    assert shown.startswith("whsec_")
    assert (client.post(path).status_code, client.post(path).json()["code"]) == (409, "webhook_secret_shown")
    assert client.post(f"{path}/rotate").json()["secret"] != shown
    change_queue(spec=spec(QUEUE))
    assert client.post(f"{path}/rotate").json()["code"] == "webhook_invalid"
    assert client.post("/api/cli/queues/nothing/webhook-secret").status_code == 404


def test_the_secret_of_a_queue_is_made_with_its_first_host_and_deleted_with_the_queue(
    single_broker: Broker, settings: Any
) -> None:
    assert save_queue(spec=spec("plain"), source=QueueSource.API).webhook_secret is None
    made = change_queue(spec=spec("plain", webhook_hosts=("a.example.com",))).webhook_secret
    assert made is not None
    assert made.shown_at is None

    for hosts in (("a.example.com", "b.example.com"), (), ("c.example.com",)):
        change_queue(spec=spec("plain", webhook_hosts=hosts))

    assert Queue.objects.get(name="plain").webhook_secret == made
    delete_queue(single_broker, name="plain", force=True)
    assert not SealedSecret.objects.exists()
    settings.RUNQY_VAULT_MASTER_KEY = ""
    with pytest.raises(VaultLocked, match="webhook_hosts: Vaults are locked"):
        change_queue(spec=spec("plain", webhook_hosts=("a.example.com",)))
    assert not Queue.objects.filter(name="plain").exists()


def test_ends_do_not_cost_tasks_that_nobody_is_told_of(single_broker: Broker, hosts: list[str]) -> None:
    add()
    finish(single_broker)

    assert not redis_of(single_broker).exists(QueueKeys(QUEUE).ends)
