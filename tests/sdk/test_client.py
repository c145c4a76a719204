"""Both clients against the server's own application, also over a bad network."""

import json
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.streams.run_log import RunInfo
from runqy.broker.tasks.chunks import ChunkBatch, write_chunks
from runqy.broker.tasks.finish import Failure, requeue, retry
from runqy.broker.tasks.inspector import run_tasks
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.output import OutputChunk, write_output
from runqy_sdk.client import (
    Client,
    ConfigurationError,
    Job,
    ServerUnreachable,
    StreamRestarted,
    TaskDeleted,
    TaskFailed,
    WaitTimeout,
    api_errors,
)
from runqy_sdk.client import operations as client_operations
from tests.api.client import ApiClient
from tests.support.tasks import take, take_one
from tests.support.waiting import PATIENCE_S
from tests.tasks.task_helpers import fail_for_good, succeed
from tools.documentation import client_errors

SIMPLE = QueueKeys("simple")


@contextmanager
def gateway(url: str, *, losing: int) -> Iterator[str]:
    """Pass requests to a server, and lose the responses to the first ones."""
    port = int(url.rsplit(":", 1)[1])
    left = losing

    def is_whole(request: bytes) -> bool:
        head, end, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        return bool(end) and len(body) == int(length[1] if length else 0)

    def serve() -> None:
        nonlocal left
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, socket.create_connection(("127.0.0.1", port)) as server:
                request = b""
                while not is_whole(request):
                    request += connection.recv(1 << 16)
                server.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
                response = b""
                while data := server.recv(1 << 16):
                    response += data
                left -= 1
                if left < 0:
                    connection.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def finish(broker: Broker, result: bytes = b"1") -> None:
    succeed(broker, take_one(broker, "simple"), result)


def test_a_task_is_enqueued_and_its_result_read(client: Any, single_broker: Broker) -> None:
    task = client.enqueue("simple", {"text": "für"}, delay=timedelta(0), max_retry=1, timeout="5m", deadline=None)
    assert (task.state, task.payload, task.max_retry, task.has_ended) == ("pending", {"text": "für"}, 1, False)
    assert abs(task.enqueued_at - datetime.now(UTC)) < timedelta(minutes=5)
    finish(single_broker, b'{"ok":true}')

    assert client.result(task) == {"ok": True}
    assert client.get(task.id).state == client.wait(task.id).state == "completed"


def test_a_task_has_the_workers_and_errors_of_its_attempts(client: Any, single_broker: Broker) -> None:
    task, declined = client.enqueue("simple", 1), RunInfo(error_class="shop.Declined")
    taken, now_ns = take_one(single_broker, "simple"), single_broker.now_ns()
    failure = Failure(error="no funds", retry_at_s=single_broker.now_s())
    single_broker.run(retry(taken.lease, taken.message, failure, now_ns=now_ns, info=declined))
    failed = client.get(task.id)
    single_broker.run(run_tasks("simple", [task.id], now_ns=now_ns))
    (taken,) = take(single_broker, 1, "simple", worker_id="w2")
    running = client.get(task.id)
    succeed(single_broker, taken, b"1")

    (attempt,) = failed.attempts
    assert (failed.error_class, attempt.worker_id, attempt.ended_at is not None) == ("shop.Declined", "w1", True)
    for each in running, client.get(task.id):
        assert [(a.attempt, a.worker_id, a.error_class, a.error) for a in each.attempts] == [
            (1, "w1", "shop.Declined", "no funds"),
            (2, "w2", None, None),
        ]
        assert [a.ended_at is None for a in each.attempts] == [False, each is running]


def test_the_same_id_is_the_same_task(client: Any, redis: redis_py.Redis) -> None:
    task_id = str(uuid.uuid4())

    assert client.enqueue("simple", 1, task_id=task_id).id == client.enqueue("simple", 1, task_id=task_id).id == task_id
    with pytest.raises(api_errors.TaskAlreadyExists):
        client.enqueue("simple", 2, task_id=task_id)
    assert redis.llen(SIMPLE.pending) == 1


def test_a_lost_response_doubles_no_task(
    client: Any, served_data_plane: str, make: Callable[..., Any], redis: redis_py.Redis
) -> None:
    with gateway(served_data_plane, losing=2) as url:
        distant = make(url, retry_for=PATIENCE_S)
        task = distant.enqueue("simple", {"n": 1})
        outcomes = list(distant.enqueue_many("simple", [1, 2, 3]))

    stored = [task_id.decode() for task_id in redis.lrange(SIMPLE.pending, 0, -1)]
    assert sorted(stored) == sorted([task.id, *(outcome.task_id for outcome in outcomes)])


def test_a_server_that_stays_away_is_an_error(client: Any, make: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    away = make(f"http://127.0.0.1:{port}", retry_for=0.5)

    with pytest.raises(ServerUnreachable, match=f"127.0.0.1:{port} cannot be reached"):
        away.enqueue("simple", 1)
    with pytest.raises(ServerUnreachable):
        list(away.events("t1"))


def test_an_error_has_the_class_of_its_code(client: Any, make: Callable[..., Any], served_data_plane: str) -> None:
    with pytest.raises(api_errors.TaskNotFound):
        client.get("none")
    with pytest.raises(api_errors.QueueNotFound, match="Valid names"):
        client.enqueue("none", 1)
    with pytest.raises(api_errors.PayloadInvalid) as caught:
        client.enqueue("numbers", {"n": "x"})
    assert (caught.value.status, caught.value.errors[0][:2]) == (400, "n:")
    assert caught.value.request_id


def test_every_code_has_a_class() -> None:
    source = client_errors.PATH.read_text()

    assert source == client_errors.module(), "run `python -m tools.documentation.client_errors`"


def test_many_tasks_have_an_outcome_each(client: Any, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_operations, "CHUNK_TASKS", 100)
    known = str(uuid.uuid4())
    client.enqueue("numbers", {"n": 1}, task_id=known)
    jobs = [{"n": 1}, {"n": "x"}, Job({"n": 2}, known), Job({"n": 3}, options={"delay": 60}), *[{"n": 4}] * 246]

    outcomes = list(client.enqueue_many("numbers", iter(jobs), max_retry=2))

    assert [index for index, outcome in enumerate(outcomes) if outcome.error] == [1, 2]
    assert isinstance(outcomes[2].error, api_errors.TaskAlreadyExists)
    assert "Must be" in str(outcomes[1].error)
    assert redis.llen(QueueKeys("numbers").pending) == 248
    assert redis.zrange(QueueKeys("numbers").scheduled, 0, -1) == [outcomes[3].task_id.encode()]


def test_a_batch_of_which_nothing_is_accepted_has_outcomes(client: Any) -> None:
    outcomes = list(client.enqueue_many("numbers", [{"n": "x"}, {"n": None}]))

    assert [str(outcome.error)[:2] for outcome in outcomes] == ["n:", "n:"]


def test_jobs_that_a_full_queue_refuses_are_sent_again(
    client: Any, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = QueueKeys("small")
    pauses: list[float] = []

    def empty(self: Any, error: Exception) -> client_operations.Pause:
        pauses.append(error.retry_after or 0.0 if isinstance(error, api_errors.QueueFull) else -1.0)
        redis.delete(small.pending)
        return client_operations.Pause(0)

    monkeypatch.setattr(client_operations.Retries, "next_pause", empty)

    outcomes = list(client.enqueue_many("small", range(5)))

    assert not any(outcome.error for outcome in outcomes)
    assert len({outcome.task_id for outcome in outcomes}) == 5
    assert len(pauses) == 2


def test_a_failed_task_and_one_that_does_not_end(client: Any, single_broker: Broker) -> None:
    task = client.enqueue("simple", 1)
    with pytest.raises(WaitTimeout):
        client.result(task, timeout=0.1)
    fail_for_good(single_broker, take_one(single_broker, "simple"), "boom")

    with pytest.raises(TaskFailed, match="boom") as caught:
        client.result(task, timeout=PATIENCE_S)
    assert caught.value.task.state == "archived"


def test_a_long_wait_is_several_requests(client: Any, single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_operations, "WAIT_S", 1.0)
    task = client.enqueue("simple", 1)
    timer = threading.Timer(2.5, finish, [single_broker])
    timer.start()

    assert client.wait(task, timeout=PATIENCE_S).result == 1
    timer.join()


def test_events_follow_a_task_to_its_end(client: Any, single_broker: Broker) -> None:
    task = client.enqueue("simple", 1)
    finish(single_broker)

    events = list(client.events(task))

    assert (events[-1].name, events[-1].data["info"]["result"]) == ("end", 1)
    assert list(client.events(task, last_event_id=events[-1].id)) == []


def stream(broker: Broker, taken: LeasedTask, *chunks: object) -> None:
    entries = tuple(json.dumps(chunk).encode() for chunk in chunks)
    batch = ChunkBatch(lease=taken.lease, run_number=taken.run_number, offset=0, entries=entries, retention_s=60)
    broker.run(write_chunks([batch]))


def test_what_a_task_streams_is_read_from_its_first_chunk(client: Any, single_broker: Broker) -> None:
    task = client.enqueue("simple", 1)
    taken = take_one(single_broker, "simple")
    stream(single_broker, taken, "Hel", "lo", {"n": 1})
    succeed(single_broker, taken, b"1")

    assert list(client.stream(task)) == ["Hel", "lo", {"n": 1}]


def test_a_stream_that_begins_again_is_an_error(client: Any, single_broker: Broker) -> None:
    task = client.enqueue("simple", 1)
    first = take_one(single_broker, "simple")
    stream(single_broker, first, "void")

    def run_again() -> None:
        single_broker.run(requeue(first.lease, now_ns=single_broker.now_ns()))
        second = take_one(single_broker, "simple")
        stream(single_broker, second, "valid")
        succeed(single_broker, second, b"1")

    timer = threading.Timer(0.5, run_again)
    timer.start()

    with pytest.raises(StreamRestarted):
        list(client.stream(task))
    timer.join()
    assert list(client.stream(task)) == ["valid"]


def test_a_deleted_task_ends_its_events(client: Any) -> None:
    task = client.enqueue("simple", 1)
    timer = threading.Timer(0.5, ApiClient().delete, [f"/api/cli/queues/simple/tasks/{task.id}"])
    timer.start()

    with pytest.raises(TaskDeleted):
        list(client.events(task))
    timer.join()


def test_a_task_is_cancelled_and_its_output_read(client: Any, single_broker: Broker) -> None:
    task = client.enqueue("simple", 1)
    taken = take_one(single_broker, "simple")
    single_broker.run(write_output([OutputChunk(lease=taken.lease, text=b"hello\n", retention_s=60)]))

    assert client.logs(task).text == "hello\n"
    client.cancel(task.id)
    client.cancel(task.id)
    ended = client.enqueue("simple", 1)
    finish(single_broker)
    with pytest.raises(api_errors.TaskEnded):
        client.cancel(ended)


def test_values_that_are_no_options_or_not_json_are_refused(client: Any, redis: redis_py.Redis) -> None:
    for payload, options, message in (
        ({1, 2}, {}, "set"),
        (float("nan"), {}, "JSON compliant"),
        (1, {"delay_s": 1}, "'delay_s' is no option"),
        (1, {"process_at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001 (refused for that)
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            client.enqueue("simple", payload, **options)
    assert not redis.llen(SIMPLE.pending)


class TestSettings:
    """Which server a client uses."""

    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("RUNQY_SERVER_URL", "RUNQY_SERVER", "RUNQY_API_KEY", "RUNQY_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        self.file = tmp_path / "runqy" / "profiles.json"
        self.file.parent.mkdir()

    def save(self, mode: int = 0o600) -> None:
        profiles = {name: {"url": f"http://{name}:1", "key": f"{name}-key"} for name in ("one", "two")}
        self.file.write_text(json.dumps({"current": "one", "profiles": profiles}))
        self.file.chmod(mode)

    def find(self, **options: Any) -> tuple[str, str]:
        with Client(**options) as client:
            connection = client._requests._connection  # noqa: SLF001 (the key is shown nowhere)
            return connection.url, connection.options["headers"]["Authorization"].removeprefix("Bearer ")

    def test_arguments_environment_and_profiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.save()
        assert self.find() == ("http://one:1", "one-key")
        assert self.find(profile="two") == ("http://two:1", "two-key")
        monkeypatch.setenv("RUNQY_SERVER_URL", "http://three:1/")
        monkeypatch.setenv("RUNQY_API_KEY", "three-key")
        assert self.find() == ("http://three:1", "three-key")
        assert self.find(profile="two") == ("http://two:1", "two-key")
        assert self.find(url="http://four:1", api_key="four-key") == ("http://four:1", "four-key")

    def test_what_is_missing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigurationError, match="no server: pass url"):
            Client()
        with pytest.raises(ConfigurationError, match="no API key"):
            Client("http://one:1")
        with pytest.raises(ConfigurationError, match="no profile 'none'"):
            Client(profile="none")
        with pytest.raises(ConfigurationError, match="is no URL"):
            Client("one:1", "key")
        self.save(0o644)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            Client()
