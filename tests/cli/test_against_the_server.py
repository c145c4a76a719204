"""The command line and the server understand each other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis as redis_py
from django.core.handlers.wsgi import WSGIHandler
from typer.testing import Result

from queues.definitions import FieldType, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.output import OutputChunk, write_output
from runqy.cli import targets
from runqy.cli.client import Client
from runqy.cli.errors import ExitCode
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY, CLIENT_KEY, WORKER_KEY
from tests.support.redis_client import redis_of
from tests.support.tasks import put, take_one
from tests.tasks.task_helpers import fail_for_good

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _leads_to_the_server(configuration: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the network by the application; there is one queue."""
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("image", input=(PayloadField(name="n", type=(FieldType.INT,)),)), source=QueueSource.API)
    transport = httpx2.WSGITransport(app=WSGIHandler())
    monkeypatch.setattr(targets, "make_client", lambda url, key: Client(url, key, transport))


def test_task_is_enqueued_and_read_again(run: Run, redis: redis_py.Redis) -> None:
    enqueued = run("task", "enqueue", "-q", "mail", "-p", '{"to": "ada"}', "-k", CLIENT_KEY)
    task_id = enqueued.stdout.split()[1]

    read = run("task", "get", task_id, "-k", CLIENT_KEY, "--json")

    assert enqueued.exit_code == read.exit_code == 0, enqueued.output + read.output
    assert redis.lrange(QueueKeys("mail").pending, 0, -1) == [task_id.encode()]
    assert '"state": "pending"' in read.stdout
    assert '"to": "ada"' in read.stdout


def test_task_shows_how_often_its_process_died(run: Run, redis: redis_py.Redis) -> None:
    task_id = run("task", "enqueue", "-q", "mail", "-o", "name", "-k", CLIENT_KEY).stdout.strip()
    redis.hset(QueueKeys("mail").task(task_id), mapping={"child_deaths": 1, "shared_deaths": 2})

    lines = run("task", "get", task_id, "-k", CLIENT_KEY).stdout.splitlines()

    assert {"child_deaths\t1", "shared_deaths\t2"} <= {*lines}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("enqueue", "-q", "nope", "-k", CLIENT_KEY),
            ExitCode.NOT_FOUND,
            "runqy: No queue 'nope'. Valid names: image, mail.",
        ),
        (("enqueue", "-q", "image", "-p", "[1]", "-k", CLIENT_KEY), ExitCode.FAILED, "runqy: data: Must be an object"),
        (("get", "no-such-task", "-k", CLIENT_KEY), ExitCode.NOT_FOUND, "runqy: Task not found."),
        (("get", "no-such-task", "-k", WORKER_KEY), ExitCode.DENIED, "runqy: A key with the role worker is not"),
        (("get", "no-such-task", "-k", "wrong"), ExitCode.DENIED, "runqy: A valid API key is required"),
        (
            ("get", "no-such-task"),
            ExitCode.DENIED,
            "runqy: No API key: use `runqy login`, set RUNQY_API_KEY, or",
        ),
    ],
)
def test_errors_are_one_line_messages(run: Run, arguments: tuple[str, ...], status: ExitCode, message: str) -> None:
    result = run("task", *arguments)

    assert (result.exit_code, result.stderr[: len(message)]) == (status, message)


def test_failed_task_is_listed_and_run_again(run: Run, redis: redis_py.Redis, single_broker: Broker) -> None:
    task_id = run("task", "enqueue", "-q", "mail", "-k", ADMIN_KEY).stdout.split()[1]
    fail_for_good(single_broker, take_one(single_broker, "mail"), "boom")

    listed = run("task", "list", "mail", "--state", "archived", "-k", ADMIN_KEY)
    ran = run("task", "run", task_id, "-k", ADMIN_KEY)

    assert listed.stdout.split("\t")[0] == task_id
    assert listed.stdout.endswith("\tboom\n")
    assert ran.stdout == f"{task_id}: task pending\n"
    assert redis.lrange(QueueKeys("mail").pending, 0, -1) == [task_id.encode()]


def test_waiting_task_is_cancelled_and_deleted(run: Run, redis: redis_py.Redis) -> None:
    task_id = run("task", "enqueue", "-q", "mail", "-k", ADMIN_KEY).stdout.split()[1]

    canceled = run("task", "cancel", task_id, "-k", ADMIN_KEY)
    deleted = run("task", "delete", task_id, "-k", ADMIN_KEY)

    assert (canceled.stdout, deleted.stdout) == (f"{task_id}: task cancelled\n", f"{task_id}: task deleted\n")
    assert not redis.exists(QueueKeys("mail").task(task_id))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("queue", "list"), "image\tunknown\t0/0\t0\t0\t0\t0\t0\t0\nmail\tunknown\t0/0\t0\t0\t0\t0\t0\t0\n"),
        (
            ("queue", "redeploy", "mail"),
            "mail: requested release 1, the newest commit, for the next worker that starts, as none serves the queue; "
            "`runqy queue releases mail` shows its state\n",
        ),
        (("worker", "list"), ""),
    ],
)
def test_queues_and_workers_are_listed(
    run: Run, redis: redis_py.Redis, arguments: tuple[str, ...], expected: str
) -> None:
    result = run(*arguments, "-k", ADMIN_KEY)

    assert (result.exit_code, result.stdout) == (0, expected), result.output


def test_scheduled_tasks_are_released_with_the_time_at_which_they_are_due(run: Run, single_broker: Broker) -> None:
    due_s = single_broker.now_s() + 3600
    put(single_broker, "a", "b", queue="mail", process_at_s=due_s)

    results = [run("queue", "release-scheduled", *queues, "-k", ADMIN_KEY) for queues in ([], ["mail"])]

    assert [result.stdout for result in results] == [
        "image: 0 tasks released\nmail: 2 tasks released\n",
        "mail: 0 tasks released\n",
    ], results[0].output
    assert redis_of(single_broker).zrange(QueueKeys("mail").retry, 0, -1, withscores=True) == [
        (b"a", due_s),
        (b"b", due_s),
    ]


def test_queue_files_are_reloaded_and_what_they_define_is_listed(run: Run, settings: Any, tmp_path: Path) -> None:
    settings.QUEUE_WORKERS_DIR = tmp_path
    queue = "queues:\n  {}: {{priority: 1, deployment: {{git_url: 'https://h/r', startup_cmd: x}}}}\n"
    nightly = "schedules:\n  {}: {{queue: new, cron: '@daily'}}\n"
    (tmp_path / "a.yaml").write_text(queue.format("new") + nightly.format("nightly"))
    run("config", "reload", "-k", ADMIN_KEY)
    (tmp_path / "a.yaml").write_text(queue.format("new") + nightly.format("weekly"))
    (tmp_path / "b.yaml").write_text(queue.format("late"))
    (tmp_path / "c.yaml").write_text("queues: 5")

    result = run("config", "reload", "-k", ADMIN_KEY)

    listed = "queue\tlate\tadded\nqueue\tnew\tunchanged\nschedule\tnightly\tmissing\nschedule\tweekly\tadded\n"
    assert (result.exit_code, result.stdout) == (ExitCode.FAILED, listed), result.output
    assert "c.yaml" in result.stderr


def test_a_queue_is_removed_once(run: Run) -> None:
    results = [
        run("queue", "delete", "mail", "--force", *options, "-k", ADMIN_KEY)
        for options in ([], [], ["--ignore-missing"])
    ]

    assert [result.exit_code for result in results] == [0, ExitCode.NOT_FOUND, 0]
    assert [result.stdout for result in results] == ["mail: deleted\n", "", "mail does not exist\n"]


def test_unknown_state_is_an_error_that_lists_the_valid_ones(run: Run, redis: redis_py.Redis) -> None:
    result = run("task", "list", "mail", "--state", "failed", "-k", ADMIN_KEY)

    assert result.exit_code == ExitCode.FAILED
    assert "archived" in result.stderr


def test_output_of_a_task_is_shown_and_followed(run: Run, redis: redis_py.Redis, single_broker: Broker) -> None:
    task_id = run("task", "enqueue", "-q", "mail", "-k", CLIENT_KEY).stdout.split()[1]
    taken = take_one(single_broker, "mail")
    text = "one\ntwo\u2028three\u2029four\x85five\x0csix\n"
    single_broker.run(write_output([OutputChunk(lease=taken.lease, text=text.encode())]))
    fail_for_good(single_broker, taken, "boom")

    shown = run("task", "logs", task_id, "-q", "mail", "-k", CLIENT_KEY)
    followed = run("task", "logs", task_id, "--follow", "-k", CLIENT_KEY)

    as_json = run("task", "logs", task_id, "-o", "json", "-k", CLIENT_KEY)

    cleaned = text.replace("\x85", "\ufffd").replace("\x0c", "\ufffd")
    assert (shown.exit_code, shown.stdout) == (0, cleaned)
    assert (followed.exit_code, followed.stdout) == (ExitCode.TASK_FAILED, cleaned)
    assert json.loads(as_json.stdout)["text"] == text


def test_the_end_of_a_task_is_an_event(run: Run, single_broker: Broker) -> None:
    task_id = run("task", "enqueue", "-q", "mail", "-k", CLIENT_KEY).stdout.split()[1]
    fail_for_good(single_broker, take_one(single_broker, "mail"), "boom")

    results = [run("task", word, task_id, "-k", CLIENT_KEY) for word in ("events", "wait")]

    assert [result.exit_code for result in results] == [ExitCode.TASK_FAILED] * 2
    assert results[0].stdout == "end\tarchived\tboom\n"
    assert "last_err\tboom\n" in results[1].stdout
