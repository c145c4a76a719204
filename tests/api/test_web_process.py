"""A real gunicorn with the server's own configuration."""

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from runqy_python import AuthenticationError, RunqyClient, TaskNotFoundError

from queues.models import Source
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import ended_channel
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.tasks import take_one
from tests.support.waiting import wait_until
from tests.support.web import WAITERS, WebProcess, database_variables
from tests.tasks.life import fail_for_good, succeed


@pytest.fixture(scope="module")
def shared_web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """Start a server on the tests' database."""
    started = WebProcess(tmp_path_factory.mktemp("web"), **database_variables())
    yield started
    started.kill()


@pytest.fixture
def web(configuration: None, shared_web: WebProcess) -> WebProcess:
    """Return the server, which knows a queue."""
    save_queue(spec=spec("simple"), source=Source.API)
    return shared_web


def test_no_proxy_is_believed_that_was_not_named(configuration: None, tmp_path: Path) -> None:
    web = WebProcess(tmp_path, RUNQY_HTTPS="true")
    try:
        with web.connect("GET /admin/login/ HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: https\r\n\r\n") as asked:
            status = asked.recv(12)
    finally:
        web.kill()

    assert status == b"HTTP/1.1 301"


def test_answers_carry_the_time(web: WebProcess) -> None:
    earliest = int(time.time()) - 2  # uvicorn renews the header once a second

    with web.connect("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as asked:
        answer = b"".join(iter(lambda: asked.recv(4096), b"")).decode()

    spelled = re.search(r"^date: (.*)\r$", answer, re.MULTILINE)
    assert spelled is not None
    assert earliest <= parsedate_to_datetime(spelled[1]).timestamp() <= time.time()


def wait_for_a_place(web: WebProcess, path: str) -> tuple[int, dict[str, Any]]:
    """Send a request that waits, again as long as others have all the places."""
    while True:
        status, answer = web.send(path)
        if status != 503:
            return status, answer


@pytest.fixture
def own_web(configuration: None, tmp_path: Path) -> Iterator[WebProcess]:
    """Return a server that the test may end, and which knows a queue."""
    save_queue(spec=spec("simple"), source=Source.API)
    started = WebProcess(tmp_path)
    yield started
    started.kill()


def test_readers_may_wait_up_to_the_limit_and_the_end_of_the_process_sends_them_away(
    own_web: WebProcess, redis: Any
) -> None:
    web = own_web
    task_id = web.send("/queue/add", b'{"queue":"simple","data":{}}')[1]["info"]["id"]
    path, channel = f"/queue/{task_id}?wait=60", ended_channel(task_id)

    with ThreadPoolExecutor(WAITERS) as pool:
        waiters = [pool.submit(wait_for_a_place, web, path) for _ in range(WAITERS)]
        wait_until(lambda: redis.pubsub_numsub(channel)[0][1] == 1)
        wait_until(lambda: web.send(f"/queue/{task_id}?wait=0.01")[0] == 503)
        assert web.send(f"/queue/{task_id}")[0] == 200
        web.process.send_signal(signal.SIGTERM)
        answers = [waiter.result(20) for waiter in waiters]

    assert [status for status, _ in answers] == [202] * WAITERS
    assert web.process.wait(10) == 0


def test_clients_that_send_slowly_do_not_keep_others_waiting(web: WebProcess) -> None:
    head = f"POST /queue/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    slow = [web.connect(f"{head}Content-Length: {size}\r\n\r\n{{") for size in (10, 10, 10, 100_000, 100_000)]
    slow.append(web.connect("POST /que"))

    status, _ = web.send("/queue/add", b'{"queue":"simple","data":{}}')

    assert status == 200
    for connection in slow:
        connection.close()


def test_a_body_may_come_in_chunks(web: WebProcess) -> None:
    head = f"POST /queue/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nConnection: close\r\n"
    chunks = "".join(f"{len(part):x}\r\n{part}\r\n" for part in ('{"queue":"simple"', ',"data":{"n":1}}', ""))
    connection = web.connect(f"{head}Transfer-Encoding: chunked\r\n\r\n{chunks}")

    answer = b""
    while part := connection.recv(65536):
        answer += part
    connection.close()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"payload":{"n":1}' in answer


def test_the_published_sdk_enqueues_and_reads_results(web: WebProcess, single_broker: Broker) -> None:
    sdk = RunqyClient(f"http://127.0.0.1:{web.port}", api_key=ADMIN_KEY)

    queued = sdk.enqueue("simple.default", {"n": 1}, timeout=60)
    succeed(single_broker, take_one(single_broker, "simple"), b'{"ok": true}')
    done = sdk.get_task(queued.task_id)

    assert (queued.queue, queued.state) == ("simple", "pending")
    assert (done.state, done.result, done.payload) == ("completed", {"ok": True}, {"n": 1})


def test_the_published_sdk_tells_errors_apart(web: WebProcess, single_broker: Broker) -> None:
    sdk = RunqyClient(f"http://127.0.0.1:{web.port}", api_key=ADMIN_KEY)
    failed = sdk.enqueue("simple", {})
    fail_for_good(single_broker, take_one(single_broker, "simple"), "it broke")

    assert sdk.get_task(failed.task_id).error == "it broke"
    with pytest.raises(TaskNotFoundError):
        sdk.get_task("unknown")
    with pytest.raises(AuthenticationError):
        RunqyClient(sdk.server_url, api_key="wrong").get_task(failed.task_id)


@pytest.mark.parametrize("path", ["/livez", "/nowhere", "/queue/add"])
def test_a_response_to_head_has_a_length_and_no_body(web: WebProcess, path: str) -> None:
    with web.connect(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as asked:
        head, _, body = b"".join(iter(lambda: asked.recv(4096), b"")).partition(b"\r\n\r\n")

    assert re.search(rb"(?i)content-length: [1-9]", head)
    assert body == b""


def test_a_process_that_is_to_end_goes_on_until_load_balancers_know(configuration: None, tmp_path: Path) -> None:
    web = WebProcess(tmp_path, RUNQY_DRAIN_S="3")

    def is_draining() -> bool:
        return [check["check"] for check in web.send("/readyz?verbose")[1]["checks"]] == ["process"]

    assert not is_draining()

    web.process.send_signal(signal.SIGTERM)
    wait_until(is_draining)

    assert web.send("/readyz")[0] == 503
    assert web.send("/livez")[0] == 200
    assert web.process.wait(15) == 0
