"""Replays requests of released clients to the original server: those that succeeded there succeed here.

The exchanges build on each other, so they are one test. Tasks that a worker ran between two of them are run here too.
They are sent to Django's WSGI application, and again to the running server, with the data plane in front of Django.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from django.test import Client

from queues import deletion
from runqy.broker import keys
from runqy.broker.tasks.finish import complete
from runqy.redis_connection import get_broker
from tests.support.environment import ADMIN_KEY
from tests.support.redis_client import redis_of
from tests.support.tasks import take

EXCHANGES = [json.loads(line) for line in (Path(__file__).parent / "go-cli.jsonl").read_text().splitlines()]
_COUNTS = ("pending", "active", "scheduled", "retry", "archived", "completed", "memory_usage")

Check = Callable[[Any, Any], None]
"""Takes the recorded and the current response."""


def same(*names: str) -> Check:
    """Return the check that these members are what they were."""

    def check(was: Any, now: Any) -> None:
        assert {name: now[name] for name in names} == {name: was[name] for name in names}

    return check


def check_queue(was: Any, now: Any) -> None:
    """Check what `queue list` and `queue inspect` print."""
    assert now["queue"] == was["queue"]
    assert all(type(now[name]) is int for name in _COUNTS)
    assert [now[name] for name in _COUNTS[:-1]] == [was[name] for name in _COUNTS[:-1]]
    assert now["paused"] is was["paused"]


def check_queues(was: Any, now: Any) -> None:
    """Check a list of queues; the original listed a queue without sub-queues a second time, by its own name."""
    listed = {queue["queue"]: queue for queue in now["queues"]}
    for queue in was["queues"]:
        if queue["queue"] != "simple":
            check_queue(queue, listed[queue["queue"]])


def check_task(was: Any, now: Any) -> None:
    """Check what the command line prints of a task; names of members are read without regard to case."""
    now = {name.lower(): value for name, value in now.items()}
    assert (now["id"], now["type"], now["queue"]) == (translated(was["id"]), was["queue"], was["queue"])
    assert (now["state"], now["max_retry"], now["retried"]) == (was["state"], was["max_retry"], was["retried"])
    assert isinstance(now["timeout"], str)
    assert isinstance(now["payload"], dict)
    if was["state"] == "completed":
        assert now["result"] == {"ok": True}
        assert now["completed_at"]


def check_tasks(was: Any, now: Any) -> None:
    """Check a list of tasks, in its order."""
    assert len(now["tasks"] or []) == len(was["tasks"] or [])
    for one, other in zip(was["tasks"] or [], now["tasks"] or [], strict=True):
        check_task(one, other)


def check_info(was: Any, now: Any) -> None:
    """Check what was enqueued, or what the Python SDK reads."""
    check_task(was.get("info") or was["Info"], now["info"])


def check_batch(was: Any, now: Any) -> None:
    """Check a batch."""
    assert (now["enqueued"], now["failed"]) == (was["enqueued"], was["failed"])
    assert len(now["task_ids"]) == len(was["task_ids"])


def check_worker(was: Any, now: Any) -> None:
    """Check a line of `worker list`."""
    same("worker_id", "started_at", "concurrency", "queues", "status", "is_stale")(was, now)
    assert type(now["last_beat"]) is int


def check_workers(was: Any, now: Any) -> None:
    """Check `worker list`."""
    assert now["count"] == was["count"]
    for one, other in zip(was["workers"], now["workers"], strict=True):
        check_worker(one, other)


def check_configs(was: Any, now: Any) -> None:
    """Check `config list`."""
    lines = [(queue["name"], queue["priority"]) for queue in now["queues"]]
    assert lines == [(queue["name"], queue["priority"]) for queue in was["queues"]]
    assert now["count"] == was["count"]


def check_config(was: Any, now: Any) -> None:
    """Check `config create`."""
    assert now["message"] == was["message"]
    same("name", "priority")(was["queue"], now["queue"])
    stated = {name: value for name, value in was["queue"]["deployment"].items() if value}
    assert now["queue"]["deployment"].items() >= stated.items()


def check_reload(was: Any, now: Any) -> None:
    """Check `config reload`, which takes null for empty."""
    assert (now["reloaded"] or None, now["errors"] or None) == (was["reloaded"], was["errors"])
    assert type(now["timestamp"]) is int


def check_entries(was: Any, now: Any) -> None:
    """Check the entries of a vault."""
    for one, other in zip(was["entries"], now["entries"], strict=True):
        same("key", "value", "is_secret")(one, other)


def check_vault(was: Any, now: Any) -> None:
    """Check `vault show`."""
    same("name", "description")(was, now)
    check_entries(was, now)


def check_registration(was: Any, now: Any) -> None:
    """Check what Go's worker needs of a registration."""
    same("sub_queues", "vaults")(was, now)
    assert now["redis"].keys() >= was["redis"].keys()
    assert now["redis"]["addr"]
    assert now["queue"].items() >= was["queue"].items()
    assert now["deployment"].items() >= was["deployment"].items()


def nothing(was: Any, now: Any) -> None:
    """Check nothing: only the status is read."""


CHECKS: list[tuple[str, Check]] = [
    (r"POST /workers/queues.*", check_config),
    (r"GET /workers/queues", check_configs),
    (r"POST /workers/reload", check_reload),
    (r"DELETE /workers/queues/.*", nothing),
    (r"GET /workers", check_workers),
    (r"GET /workers/.*", check_worker),
    (r"GET /api/queues", check_queues),
    (r"GET /api/queues/[^/]*", check_queue),
    (r"GET /api/queues/[^/]*/tasks\?.*", check_tasks),
    (r"GET /api/queues/[^/]*/tasks/.*", check_task),
    (r"(POST|DELETE) /api/(queues|tasks)/.*", nothing),
    (r"POST /queue/add", check_info),
    (r"POST /queue/add-batch", check_batch),
    (r"GET /queue/.*", check_info),
    (r"POST /worker/register", check_registration),
    (r"GET /api/vaults", same("vaults", "count")),
    (r"POST /api/vaults", same("message", "vault")),
    (r"GET /api/vaults/[^/]*", check_vault),
    (r"GET /api/vaults/[^/]*/entries", check_entries),
    (r"(POST|DELETE) /api/vaults/.*", same("message")),
]

_ids: dict[str, str] = {}


def translated(text: str) -> str:
    """Return a text with the ids of the recording's tasks replaced by those of ours."""
    for recorded, ours in _ids.items():
        text = text.replace(recorded, ours)
    return text


def learn_ids(was: Any, now: Any) -> None:
    """Map the ids of the recording's tasks to ours."""
    if "info" in was:
        _ids[was["info"]["id"]] = now["info"]["id"]
    _ids.update(zip(was.get("task_ids", []), now.get("task_ids", []), strict=True))


def run_tasks() -> None:
    """Run what waits in the recording's live queue, as its worker did at once."""
    broker = get_broker()
    for taken in take(broker, 10, "live.default"):
        broker.run(complete(taken.lease, taken.message, b'{"ok": true}', now_ns=broker.now_ns()))


def start_worker() -> None:
    """Leave what Go's worker leaves once it has registered."""
    broker = get_broker()
    was = next(e["response"] for e in EXCHANGES if e["path"] == "/workers/vm:17767")
    redis_of(broker).zadd(keys.WORKERS, {was["worker_id"]: broker.now_s()})
    texts = {name: was[name] for name in ("worker_id", "started_at", "concurrency", "queues", "status")}
    redis_of(broker).hset(keys.go_worker(was["worker_id"]), mapping=texts | {"last_beat": broker.now_s()})


Send = Callable[[str, str, dict[str, str], bytes], tuple[int, bytes]]
"""Sends method, path, headers and body of a request; returns status and body of the response."""


def send_to_django(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """Send a request to the WSGI application."""
    others = {name: value for name, value in headers.items() if name != "Content-Type"}
    response = Client().generic(method, path, body, content_type=headers["Content-Type"], headers=others)
    return response.status_code, response.content


def send_to(url: str) -> Send:
    """Return what sends requests to a server."""

    def send_to_server(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        request = Request(f"{url}{path}", body, headers, method=method)
        try:
            with urlopen(request, timeout=20) as response:
                return response.status, response.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    return send_to_server


@pytest.fixture(params=["viewsets", "data_plane"])
def send(request: pytest.FixtureRequest) -> Send:
    """Return what sends requests to one of the planes."""
    return send_to_django if request.param == "viewsets" else send_to(request.getfixturevalue("served_data_plane"))


def replay(exchange: dict[str, Any], send: Send) -> tuple[int, Any]:
    """Send a recorded request again; return status and body of the response."""
    body = b"" if exchange["request"] is None else json.dumps(exchange["request"]).encode()
    headers = exchange["headers"] | {"Authorization": f"Bearer {ADMIN_KEY}"}
    status, content = send(exchange["method"], translated(exchange["path"]), headers, body)
    return status, json.loads(content)


def check(exchange: dict[str, Any], status: int, content: Any) -> None:
    """Compare a response with the recorded one."""
    if exchange["status"] in (404, 409):
        assert (status, bool(content["errors"])) == (exchange["status"], True)
    elif exchange["status"] < 400:
        assert status < 400, content
        learn_ids(exchange["response"], content)
        called = f"{exchange['method']} {exchange['path']}"
        matching = next(check for pattern, check in CHECKS if re.fullmatch(pattern, called))
        matching(exchange["response"], content)


@pytest.mark.usefixtures("configuration")
def test_requests_that_succeeded_in_the_recording_succeed(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: Send
) -> None:
    settings.RUNQY_SUBQUEUE_SEPARATOR, settings.QUEUE_WORKERS_DIR = ".", tmp_path
    monkeypatch.setattr(deletion, "PROPAGATION_S", 0)
    failures = []
    _ids.clear()

    for number, exchange in enumerate(EXCHANGES, 1):
        status, content = replay(exchange, send)
        try:
            check(exchange, status, content)
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            failures.append(f"{number} {exchange['command']}: {status} {error!r}")
        if exchange["path"] == "/worker/register":
            start_worker()
        elif exchange["path"].startswith("/queue/add"):
            run_tasks()

    assert "\n".join(failures) == ""
