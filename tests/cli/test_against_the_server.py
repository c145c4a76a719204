"""The command line and the server understand each other."""

from collections.abc import Callable

import httpx2
import pytest
import redis as redis_py
from django.core.handlers.wsgi import WSGIHandler
from typer.testing import Result

from queues.models import Source
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.cli import options
from runqy.cli.connection import Server
from runqy.cli.exits import Exit
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY, CLIENT_KEY, WORKER_KEY
from tests.support.tasks import take_one
from tests.tasks.life import fail_for_good

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _leads_to_the_server(configuration: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the application in the place of the network; there is one queue."""
    save_queue(spec=spec("mail"), source=Source.API)
    transport = httpx2.WSGITransport(app=WSGIHandler())
    monkeypatch.setattr(options, "make_server", lambda url, key: Server(url, key, transport))


def test_task_is_enqueued_and_read_again(run: Run, redis: redis_py.Redis) -> None:
    enqueued = run("task", "enqueue", "-q", "mail", "-p", '{"to": "ada"}', "-k", CLIENT_KEY)
    task_id = enqueued.stdout.split()[1]

    read = run("task", "get", task_id, "-k", CLIENT_KEY, "--json")

    assert enqueued.exit_code == read.exit_code == 0, enqueued.output + read.output
    assert redis.lrange(QueueKeys("mail").pending, 0, -1) == [task_id.encode()]
    assert '"state": "pending"' in read.stdout
    assert '"to": "ada"' in read.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("enqueue", "-q", "nope", "-k", CLIENT_KEY), Exit.NOT_FOUND, "runqy: No queue 'nope'. Valid names: mail."),
        (("enqueue", "-q", "mail", "-p", "[1]", "-k", CLIENT_KEY), Exit.FAILED, "runqy: data:"),
        (("get", "no-such-task", "-k", CLIENT_KEY), Exit.NOT_FOUND, "runqy: No such task."),
        (("get", "no-such-task", "-k", WORKER_KEY), Exit.DENIED, "runqy: A key with the role worker is not"),
        (("get", "no-such-task", "-k", "wrong"), Exit.DENIED, "runqy: A valid API key is needed"),
        (("get", "no-such-task"), Exit.DENIED, "runqy: no API key: set RUNQY_API_KEY, or run this in the folder"),
    ],
)
def test_refusals_are_sentences(run: Run, arguments: tuple[str, ...], status: Exit, message: str) -> None:
    result = run("task", *arguments)

    assert (result.exit_code, result.stderr[: len(message)]) == (status, message)


def test_failed_task_is_found_and_run_again(run: Run, redis: redis_py.Redis, single_broker: Broker) -> None:
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
    ("arguments", "said"),
    [
        (("queue", "list"), "mail\t0\t0\t0\t0\t0\t0\tfalse\n"),
        (
            ("queue", "redeploy", "mail"),
            "mail: no worker serves it now; the next one to start takes the newest commit\n",
        ),
        (("worker", "list"), ""),
    ],
)
def test_queues_and_workers_are_asked_about(
    run: Run, redis: redis_py.Redis, arguments: tuple[str, ...], said: str
) -> None:
    result = run(*arguments, "-k", ADMIN_KEY)

    assert (result.exit_code, result.stdout) == (0, said), result.output


def test_state_that_is_none_is_refused_with_the_valid_ones(run: Run, redis: redis_py.Redis) -> None:
    result = run("task", "list", "mail", "--state", "failed", "-k", ADMIN_KEY)

    assert result.exit_code == Exit.FAILED
    assert "archived" in result.stderr
