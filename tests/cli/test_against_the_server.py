"""The command line and the server understand each other."""

from collections.abc import Callable

import httpx2
import pytest
import redis as redis_py
from django.core.handlers.wsgi import WSGIHandler
from typer.testing import Result

from queues.models import Source
from queues.operations import save_queue
from runqy.broker.keys import QueueKeys
from runqy.cli import options
from runqy.cli.connection import Server
from runqy.cli.exits import Exit
from tests.queues.samples import spec
from tests.support.environment import CLIENT_KEY, WORKER_KEY

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
        (("get", "no-such-task", "-k", WORKER_KEY), Exit.DENIED, "runqy: A key with the role worker may not"),
        (("get", "no-such-task", "-k", "wrong"), Exit.DENIED, "runqy: A valid API key is needed"),
        (("get", "no-such-task"), Exit.DENIED, "runqy: A valid API key is needed"),
    ],
)
def test_refusals_are_sentences(run: Run, arguments: tuple[str, ...], status: Exit, message: str) -> None:
    result = run("task", *arguments)

    assert (result.exit_code, result.stderr[: len(message)]) == (status, message)
