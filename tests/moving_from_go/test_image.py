"""A Redis of the Go programs is served on, and what runqy writes is read by their rules: nothing is stranded."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py

from queues.definitions import Deployment
from queues.duties import ExistingQueuePublisher
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from tasks.duties import Forwarder, Janitor, LookupSweeper, OrphanFinder, Recoverer
from tests.api.client import ApiClient, problem
from tests.moving_from_go.image import HIGH, LOST, LOW, PAYLOAD, PLAIN, Image, write_image
from tests.queues.samples import spec
from tests.support.redis_client import redis_of
from tests.support.tasks import counters, listed
from tests.support.waiting import PATIENCE_S, wait_until
from tests.workers.processes import WorkerProcess
from tests.workers.repositories import Repository

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]

CODE = """
import json, sys
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    print(json.dumps({"task_id": task["task_id"], "result": task["payload"], "error": None}), flush=True)
"""
STATES = ("pending", "active", "scheduled", "retry", "archived", "completed")


@pytest.fixture
def broker(single_broker: Broker) -> Broker:
    return single_broker


@pytest.fixture
def image(broker: Broker, redis: redis_py.Redis, tmp_path: Path, settings: Any) -> Image:
    """Write the image of the Go programs, and define their queues here."""
    settings.RUNQY_SUBQUEUE_SEPARATOR = "."
    repository = Repository(tmp_path / "repository")
    repository.commit({"main.py": CODE})
    deployment = Deployment(git_url=repository.url, startup_cmd="python main.py")
    written = write_image(redis, broker.now_s())
    for one in (spec("lr", deployment=deployment), spec("ai", "high:3", "low:1", deployment=deployment)):
        save_queue(spec=one, source=QueueSource.API)
    return written


@pytest.fixture
def serve(served_data_plane: str, tmp_path: Path) -> Iterator[Any]:
    """Return a function that starts a worker of this server."""
    workers: list[WorkerProcess] = []

    def start(queues: str) -> WorkerProcess:
        workers.append(WorkerProcess(SimpleNamespace(url=served_data_plane), tmp_path, RUNQY_QUEUES=queues))  # type: ignore[arg-type]
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


def run_maintenance(broker: Broker) -> None:
    """Run one tick of each duty that touches tasks."""
    duties = (ExistingQueuePublisher(), Forwarder(), Recoverer(), Janitor(), LookupSweeper(), OrphanFinder())
    for duty in duties:
        duty.run_tick(broker)


def ids_in(broker: Broker, state: str, *queues: str) -> set[str]:
    return {task_id for queue in queues for task_id in listed(broker, queue).get(state, [])}


def test_every_task_of_the_image_is_known_by_its_id_and_in_its_state(image: Image, broker: Broker) -> None:
    run_maintenance(broker)
    client = ApiClient()

    for state, task_ids in image.ids.items():
        for task_id in task_ids:
            info = json.loads(client.get(f"/queue/{task_id}").content)["info"]
            moved_on = {"due": "pending", "retry": "pending", "abandoned": "retry"}
            assert info["state"] == moved_on.get(task_id, state), task_id
            assert info["payload"] == PAYLOAD
    assert json.loads(client.get("/queue/done").content)["info"]["result"] == {"ok": True}
    again = json.loads(client.get("/queue/again").content)["info"]
    assert (again["retried"], again["last_err"]) == (1, "boom")


@pytest.mark.parametrize("spelling", ["lr", "lr.default", "lr_default"])
def test_each_spelling_means_the_redis_queue_of_the_go_system(image: Image, broker: Broker, spelling: str) -> None:
    run_maintenance(broker)
    client = ApiClient()

    info = json.loads(client.post("/queue/add", {"queue": spelling, "data": PAYLOAD}).content)["info"]
    queue = json.loads(client.get(f"/api/queues/{spelling}").content)

    assert (info["queue"], info["type"]) == (PLAIN, PLAIN)
    assert (queue["queue"], queue["processed"], queue["failed"]) == (PLAIN, 41, 5)  # the abandoned run too


def test_workers_of_this_server_run_all_waiting_tasks(image: Image, broker: Broker, serve: Any, tmp_path: Path) -> None:
    run_maintenance(broker)
    workers = [serve("lr,ai")]
    waiting = {f"{queue}-{n}" for queue in (PLAIN, HIGH) for n in (1, 2)} | {"locked", "again", "due", "retry"}

    wait_until(lambda: ids_in(broker, "completed", PLAIN, HIGH) >= waiting, timeout_s=60)

    assert ids_in(broker, "pending", PLAIN, HIGH) == set()
    assert ids_in(broker, "scheduled", PLAIN) == {"later"}
    assert ids_in(broker, "retry", PLAIN) == {"abandoned"}
    assert ids_in(broker, "archived", PLAIN) == {"dead"}
    assert ids_in(broker, "pending", LOW) == {f"{LOW}-1", f"{LOW}-2"}, "the queue is paused"
    assert not redis_of(broker).exists(f"asynq:{{{PLAIN}}}:unique:{PLAIN}:x")
    assert counters(broker, PLAIN)[0] == 40 + len(waiting) - 2 + 1  # and the lost run
    ApiClient().post(f"/api/queues/{LOW}/unpause")
    deployment = Deployment(git_url=f"file://{tmp_path}/repository", startup_cmd="python main.py")
    save_queue(spec=spec("lost", deployment=deployment), source=QueueSource.API)
    workers.append(serve("lost"))
    rest = {f"{queue}-{n}" for queue in (LOW, LOST) for n in (1, 2)}
    wait_until(lambda: ids_in(broker, "completed", LOW, LOST) >= rest, timeout_s=60)
    assert [worker.stop() for worker in workers] == [0, 0]


def test_a_lock_of_asynq_blocks_its_task_until_it_has_run(image: Image, broker: Broker, redis: redis_py.Redis) -> None:
    lock = redis.hget(f"asynq:{{{PLAIN}}}:t:locked", "unique_key")

    run_maintenance(broker)

    assert redis.get(lock) == b"locked"
    assert 0 < redis.ttl(lock) <= 600


def test_tasks_that_no_definition_names_are_reported(
    image: Image, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runqy.server.health.readiness.TIMEOUT_S", PATIENCE_S)
    run_maintenance(broker)

    checks = json.loads(ApiClient().get("/readyz?verbose").content)["checks"]

    (check,) = [check for check in checks if check["check"] == "queues"]
    assert check["detail"].startswith("2 tasks cannot run: no definition names their Redis queues")


def test_what_this_server_writes_is_read_by_the_rules_of_asynq_and_finished_by_a_go_worker(
    image: Image, broker: Broker, redis: redis_py.Redis
) -> None:
    run_maintenance(broker)
    client, created = ApiClient(), []
    for body in (
        {"queue": "lr", "data": PAYLOAD, "timeout": 5},
        {"queue": "ai.high", "data": PAYLOAD},
        {"queue": "lr", "data": PAYLOAD, "unique_key": "u"},
        {"queue": "lr", "data": PAYLOAD, "delay": "1h"},
    ):
        response = client.post("/queue/add", body)
        created.append(json.loads(response.content)["info"]["id"])

    for queue in (PLAIN, HIGH, LOW):
        check_by_the_rules_of_asynq(redis, queue)
    run_as_go_worker(redis, PLAIN, created[0])

    client.post("/api/cli/queues/lr/tasks/release?state=scheduled")
    check_by_the_rules_of_asynq(redis, PLAIN)
    now_s = broker.now_s()
    forwarded = [created[3] in find_due_as_go_worker(redis, PLAIN, now_s=now_s + delay_s) for delay_s in (3000, 4000)]
    assert forwarded == [False, True], "a delayed task runs when it is due"
    info = json.loads(client.get(f"/queue/{created[0]}").content)["info"]
    assert (info["state"], info["result"]) == ("completed", {"ok": True})
    message = TaskMessage.FromString(redis.hget(QueueKeys(PLAIN).task(created[2]), "msg"))
    assert redis.get(message.unique_key) == created[2].encode()
    again = client.post("/queue/add", {"queue": "lr_default", "data": {}, "unique_key": "u"})
    assert (again.status_code, problem(again)["code"]) == (409, "task_not_unique")


def check_by_the_rules_of_asynq(redis: redis_py.Redis, queue: str) -> None:
    """Check what asynq's servers and tools expect of a queue: indexes, messages, states and whole seconds."""
    assert redis.sismember("asynq:queues", queue)
    prefix = f"asynq:{{{queue}}}:"
    for state in STATES:
        is_list = state in ("pending", "active")
        index = redis.lrange(prefix + state, 0, -1) if is_list else redis.zrange(prefix + state, 0, -1)
        for task_id in index:
            stored = redis.hgetall(f"{prefix}t:{task_id.decode()}")
            message = TaskMessage.FromString(stored[b"msg"])
            assert (message.id, message.queue, stored[b"state"]) == (task_id.decode(), queue, state.encode())
            assert message.type == queue, "the handler of runqy-worker is registered for it"
            assert message.timeout or message.deadline
            if state == "pending":
                int(stored[b"pending_since"])
            elif not is_list:
                assert redis.zscore(prefix + state, task_id).is_integer()
            if message.unique_key:
                assert message.unique_key.startswith(f"{prefix}unique:")


def find_due_as_go_worker(redis: redis_py.Redis, queue: str, *, now_s: int) -> set[str]:
    """Return the ids that runqy-worker makes pending: those in `retry` that are due, and none in `scheduled`."""
    return {task_id.decode() for task_id in redis.zrangebyscore(f"asynq:{{{queue}}}:retry", "-inf", now_s)}


def run_as_go_worker(redis: redis_py.Redis, queue: str, task_id: str) -> None:
    """Run a task as runqy-worker does: pop it, register it, write its result, let its hash expire."""
    prefix = f"asynq:{{{queue}}}:"
    popped = []
    while task_id.encode() not in popped:
        popped.append(redis.rpop(f"{prefix}pending"))
    for other in popped[:-1]:
        redis.lpush(f"{prefix}pending", other)
    task = f"{prefix}t:{task_id}"
    redis.lpush(f"{prefix}active", task_id)
    redis.hset(task, "state", "active")
    now_s = int(redis.time()[0])
    redis.hset(task, mapping={"state": "completed", "result": '{"ok": true}'})
    redis.lrem(f"{prefix}active", 1, task_id)
    redis.zadd(f"{prefix}completed", {task_id: now_s + 3600})
    redis.expire(task, 3600)
