"""`runqy task enqueue-batch` against the real application: each line once, whatever happens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis as redis_py
from typer.testing import Result

from queues.definitions import FieldType, LimitOverrides, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.keys import QueueKeys
from runqy.cli.errors import ExitCode
from runqy_sdk.client import ServerUnreachable, sync
from runqy_sdk.client.operations import Call, Reply
from tests.queues.samples import spec
from tests.support.environment import CLIENT_KEY

Batch = Callable[..., Result]


@pytest.fixture(autouse=True)
def _has_queues(application: httpx2.WSGITransport) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("image", input=(PayloadField(name="n", type=(FieldType.INT,)),)), source=QueueSource.API)
    save_queue(spec=spec("small", limits=LimitOverrides(max_waiting_tasks=3)), source=QueueSource.API)


@pytest.fixture
def batch(run: Callable[..., Result]) -> Batch:
    return lambda queue, *words, **options: run(
        "task", "enqueue-batch", "-q", queue, *words, "-k", CLIENT_KEY, **options
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of 25 tasks, each with its number."""
    path = tmp_path / "tasks.ndjson"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in range(25)))
    return path


def payloads(redis: redis_py.Redis, queue: str = "mail") -> list[int]:
    """Return the numbers in the payloads of the pending tasks, in order."""
    from runqy.broker.asynq_pb2 import TaskMessage  # noqa: PLC0415

    keys = QueueKeys(queue)
    ids = [task_id.decode() for task_id in redis.lrange(keys.pending, 0, -1)[::-1]]
    return [json.loads(TaskMessage.FromString(redis.hget(keys.task(id_), "msg")).payload)["n"] for id_ in ids]


def test_each_line_is_enqueued_once_in_order_also_when_the_command_is_repeated(
    batch: Batch, redis: redis_py.Redis, file: Path
) -> None:
    first = batch("mail", str(file), "--chunk", "10")
    again = batch("mail", str(file), "--chunk", "10")
    names = batch("mail", str(file), "--chunk", "10", "--batch-id", "2", "-o", "name")

    assert (first.exit_code, first.stdout) == (0, "25 enqueued, 0 failed\n")
    assert (again.exit_code, again.stdout) == (0, "0 enqueued, 0 failed\n")
    assert "25 had been enqueued by this command before. Use --batch-id" in again.stderr
    assert len({*names.stdout.splitlines()}) == 25
    assert payloads(redis) == [*range(25)] * 2


def test_equal_lines_are_separate_tasks(batch: Batch, redis: redis_py.Redis, tmp_path: Path) -> None:
    (tmp_path / "same").write_text('{"n": 1}\n' * 6)

    result = batch("mail", str(tmp_path / "same"), "--chunk", "2")

    assert (result.stdout, payloads(redis)) == ("6 enqueued, 0 failed\n", [1] * 6)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Reply(403, {}, b'{"detail": "gone"}')])
def test_an_interrupted_command_continues_without_a_second_task(
    batch: Batch, redis: redis_py.Redis, file: Path, monkeypatch: pytest.MonkeyPatch, stop: Any
) -> None:
    ask, sent = sync.Requests._ask, []  # noqa: SLF001 (what a test puts in its place)

    def ask_and_stop(self: sync.Requests, call: Call) -> Any:
        sent.append(ask(self, call))
        if len(sent) != 2:
            return sent[-1]
        if stop is KeyboardInterrupt:
            raise stop  # the server has applied the request, but the response is lost
        return stop

    monkeypatch.setattr(sync.Requests, "_ask", ask_and_stop)

    stopped = batch("mail", str(file), "--chunk", "10")
    same_command = batch("mail", str(file), "--chunk", "10")
    continued = batch("mail", str(file), "--chunk", "10", "--from-line", "11")

    assert stopped.exit_code == (ExitCode.INTERRUPTED if stop is KeyboardInterrupt else ExitCode.DENIED)
    assert "10 tasks are enqueued, through line 10. To continue, add --from-line 11 to the command." in stopped.stderr
    assert same_command.stdout == "5 enqueued, 0 failed\n"
    assert "20 had been enqueued" in same_command.stderr
    assert (continued.stdout, "15 had been enqueued" in continued.stderr) == ("0 enqueued, 0 failed\n", True)
    assert payloads(redis) == [*range(25)]


def test_lines_with_errors_are_reported_by_number_and_the_others_are_enqueued(
    batch: Batch, redis: redis_py.Redis
) -> None:
    lines = ['{"n": 1}', "", "{n: 2}", '{"n": "three"}', '{"data": {"n": 4}, "max_retry": 7}', "\xff", '{"n": 6}']
    content = "\n".join(lines).encode("latin-1")

    result = batch("image", "-", input=content)

    assert (result.exit_code, result.stdout) == (ExitCode.FAILED, "3 enqueued, 3 failed\n")
    errors = result.stderr.splitlines()
    assert [error.split(" ")[0] for error in errors] == ["-:3:", "-:6:", "-:4:"]
    assert "Not JSON" in errors[0]
    assert "n: " in errors[2]
    assert payloads(redis, "image") == [1, 4, 6]


def test_every_line_of_a_refused_chunk_has_its_error(batch: Batch, redis: redis_py.Redis) -> None:
    content = b'{"n": "x"}\n' * 250 + b'{"n": 1}\n'

    result = batch("image", "-", "--chunk", "250", input=content)

    assert (result.exit_code, result.stdout) == (ExitCode.FAILED, "1 enqueued, 250 failed\n")
    errors = result.stderr.splitlines()
    assert [error.split(":")[1] for error in errors] == [str(number) for number in range(1, 251)]
    assert len({error.split(": ", 1)[1] for error in errors}) == 1


def test_a_full_queue_is_waited_for(
    batch: Batch, redis: redis_py.Redis, file: Path, replace_sleep: Callable[..., None]
) -> None:
    taken: list[int] = []

    def take_all(_: float) -> None:
        taken.extend(payloads(redis, "small"))
        redis.delete(QueueKeys("small").pending)

    replace_sleep(sync, take_all)

    result = batch("small", str(file), "--chunk", "10")

    assert (result.exit_code, result.stdout) == (0, "25 enqueued, 0 failed\n"), result.stderr
    assert "queue" in result.stderr
    assert [*taken, *payloads(redis, "small")] == [*range(25)]


def test_a_server_that_is_away_for_a_while_is_waited_for(
    batch: Batch, redis: redis_py.Redis, file: Path, monkeypatch: pytest.MonkeyPatch, replace_sleep: Callable[..., None]
) -> None:
    ask = sync.Requests._ask  # noqa: SLF001 (what a test puts in its place)
    failures = [Reply(503, {}, b'{"detail": "It restarts."}'), ServerUnreachable("It is gone.")]

    def fail(self: sync.Requests, call: Call) -> Any:
        reply = ask(self, call)
        return failures.pop() if failures and payloads(redis)[-1] >= 10 else reply

    monkeypatch.setattr(sync.Requests, "_ask", fail)
    replace_sleep(sync, lambda _: None)

    result = batch("mail", str(file), "--chunk", "10")

    assert result.exit_code == 0
    assert "It is gone. Trying again." in result.stderr
    assert payloads(redis) == [*range(25)]


@pytest.mark.parametrize(
    ("words", "content", "status", "message"),
    [
        (("mail", "nowhere"), b"", ExitCode.USAGE, "nowhere: No such file or directory."),
        (("mail", "-", "--from-line", "4"), b"1\n2", ExitCode.USAGE, "-: The file ends before line 3."),
        (("nope", "-"), b"{}", ExitCode.NOT_FOUND, "No queue 'nope'."),
        (("mail", "-", "--timeout", "soon"), b"{}", ExitCode.FAILED, "timeout: 'soon' is not a duration"),
        (("mail", "-", "--chunk", "0"), b"{}", ExitCode.USAGE, "--chunk"),
    ],
)
def test_a_wrong_command_line_enqueues_nothing(
    batch: Batch, words: tuple[str, ...], content: bytes, status: ExitCode, message: str
) -> None:
    result = batch(*words, input=content)

    assert (result.exit_code, result.stdout, message in result.stderr) == (status, "", True), result.output


def test_no_lines_are_no_error(batch: Batch) -> None:
    result = batch("mail", "-", input=b"\n\n")

    assert (result.exit_code, result.stdout) == (0, "0 enqueued, 0 failed\n")
