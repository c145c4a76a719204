"""A real gunicorn with the server's own configuration."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from runqy_python import AuthenticationError, RunqyClient, TaskNotFoundError

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import ended_channel
from runqy.broker.tasks.output import OutputChunk, write_output
from runqy.cli.errors import ExitCode
from tests.queues.samples import spec
from tests.support.database import database_variables
from tests.support.environment import ADMIN_KEY
from tests.support.tasks import take_one
from tests.support.waiting import wait_until
from tests.support.web import WAITERS, WebProcess
from tests.tasks.task_helpers import fail_for_good, succeed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared_web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """Start a server on the tests' database."""
    started = WebProcess(tmp_path_factory.mktemp("web"), **database_variables())
    yield started
    started.kill()


@pytest.fixture
def web(configuration: None, shared_web: WebProcess) -> WebProcess:
    """Return the server, which has a queue."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    return shared_web


def test_only_configured_proxies_are_trusted(configuration: None, tmp_path: Path) -> None:
    web = WebProcess(tmp_path, RUNQY_HTTPS="true")

    def status(path: str) -> bytes:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: https\r\n\r\n"
        with web.connect(head) as connection:
            return connection.recv(12)

    try:
        found = {status(path) for path in ("/admin/login/", "/queue/t1", "/queue/t1/events", "/queue/t1/stream")}
    finally:
        web.kill()

    assert found == {b"HTTP/1.1 301"}


def test_responses_have_a_date(web: WebProcess) -> None:
    def dated_s() -> float:
        with web.connect("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as connection:
            response = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        spelled = re.search(r"^date: (.*)\r$", response, re.MULTILINE)
        assert spelled is not None
        return parsedate_to_datetime(spelled[1]).timestamp()

    began_s = int(time.time())

    wait_until(lambda: dated_s() >= began_s)  # uvicorn renews the header once a second
    assert dated_s() <= time.time()


def wait_for_a_thread(web: WebProcess, path: str) -> tuple[int, dict[str, Any]]:
    """Send a request that waits; repeat it while all waiters are in use."""
    while True:
        status, response = web.send(path)
        if status != 503:
            return status, response


@pytest.fixture
def own_web(configuration: None, tmp_path: Path) -> Iterator[WebProcess]:
    """Return a server with a queue that the test may stop."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    started = WebProcess(tmp_path)
    yield started
    started.kill()


def test_clients_wait_up_to_the_limit_and_a_stopping_process_ends_their_waits(own_web: WebProcess, redis: Any) -> None:
    web = own_web
    task_id = web.send("/queue/add", b'{"queue":"simple","data":{}}')[1]["info"]["id"]
    path, channel = f"/queue/{task_id}?wait=60", ended_channel(task_id)

    with ThreadPoolExecutor(WAITERS) as pool:
        waiters = [pool.submit(wait_for_a_thread, web, path) for _ in range(WAITERS)]
        wait_until(lambda: redis.pubsub_numsub(channel)[0][1] == 1)
        wait_until(lambda: web.send(f"/queue/{task_id}?wait=0.01")[0] == 503)
        assert web.send(f"/queue/{task_id}")[0] == 200
        web.process.send_signal(signal.SIGTERM)
        responses = [waiter.result(30) for waiter in waiters]

    assert [status for status, _ in responses] == [202] * WAITERS
    assert web.process.wait(30) == 0


def test_slow_clients_do_not_delay_others(web: WebProcess) -> None:
    head = f"POST /queue/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    slow = [web.connect(f"{head}Content-Length: {size}\r\n\r\n{{") for size in (10, 10, 10, 100_000, 100_000)]
    slow.append(web.connect("POST /que"))

    status, _ = web.send("/queue/add", b'{"queue":"simple","data":{}}')

    assert status == 200
    for connection in slow:
        connection.close()


def test_a_chunked_body_is_accepted(web: WebProcess) -> None:
    head = f"POST /queue/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nConnection: close\r\n"
    chunks = "".join(f"{len(part):x}\r\n{part}\r\n" for part in ('{"queue":"simple"', ',"data":{"n":1}}', ""))
    connection = web.connect(f"{head}Transfer-Encoding: chunked\r\n\r\n{chunks}")

    response = b""
    while part := connection.recv(65536):
        response += part
    connection.close()

    assert response.startswith(b"HTTP/1.1 200")
    assert b'"payload":{"n":1}' in response


def test_the_published_sdk_enqueues_and_reads_results(web: WebProcess, single_broker: Broker) -> None:
    sdk = RunqyClient(f"http://127.0.0.1:{web.port}", api_key=ADMIN_KEY)

    queued = sdk.enqueue("simple.default", {"n": 1}, timeout=60)
    succeed(single_broker, take_one(single_broker, "simple"), b'{"ok": true}')
    done = sdk.get_task(queued.task_id)

    assert (queued.queue, queued.state) == ("simple", "pending")
    assert (done.state, done.result, done.payload) == ("completed", {"ok": True}, {"n": 1})


def test_the_published_sdk_distinguishes_errors(web: WebProcess, single_broker: Broker) -> None:
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
    with web.connect(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as connection:
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")

    assert re.search(rb"(?i)content-length: [1-9]", head)
    assert body == b""


def test_a_stopping_process_serves_until_load_balancers_have_noticed(configuration: None, tmp_path: Path) -> None:
    web = WebProcess(tmp_path, RUNQY_DRAIN_S="120")

    def is_draining() -> bool:
        return [check["check"] for check in web.send("/readyz?verbose")[1]["checks"]] == ["process"]

    try:
        assert not is_draining()

        web.process.send_signal(signal.SIGTERM)
        wait_until(is_draining)

        assert web.send("/readyz")[0] == 503
        assert web.send("/livez")[0] == 200
    finally:
        web.kill()


def test_a_draining_process_ends_in_time(configuration: None, tmp_path: Path) -> None:
    web = WebProcess(tmp_path, RUNQY_DRAIN_S="1")

    web.process.send_signal(signal.SIGTERM)

    assert web.process.wait(60) == 0


def test_the_command_line_follows_the_output_of_a_task_to_its_end(
    web: WebProcess, single_broker: Broker, tmp_path: Path
) -> None:
    task_id = web.send("/queue/add", b'{"queue":"simple","data":{}}')[1]["info"]["id"]
    taken = take_one(single_broker, "simple")
    printed = tmp_path / "printed"
    command = ["-m", "runqy.cli", "task", "logs", task_id, "--follow", "-s", web.url, "-k", ADMIN_KEY]
    with printed.open("wb") as out:
        following = subprocess.Popen([sys.executable, *command], stdout=out)
    try:
        single_broker.run(write_output([OutputChunk(lease=taken.lease, text=b"one\n")]))
        wait_until(lambda: printed.read_bytes() == b"one\n", timeout_s=60)
        single_broker.run(write_output([OutputChunk(lease=taken.lease, offset=4, text=b"two\n")]))
        fail_for_good(single_broker, taken, "boom")

        status = following.wait(60)
    finally:
        following.kill()

    assert (status, printed.read_bytes()) == (ExitCode.TASK_FAILED, b"one\ntwo\n")
