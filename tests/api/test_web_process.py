"""A real gunicorn with the server's own configuration."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from queues.models import Source
from queues.operations import save_queue
from runqy.broker.keys import ended_channel
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.servers import free_port
from tests.support.waiting import wait_until

WAITERS = 6


class WebProcess:
    """A server with one process, few places and few waiters."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        words = ("-m", "gunicorn", "runqy.wsgi:application", "-c", "python:runqy.gunicorn_conf", "-w", "1")
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words, "-b", f"127.0.0.1:{self.port}"],
                env=os.environ | {"RUNQY_MAX_WAITERS": str(WAITERS), "RUNQY_RUNNABLE_THREADS": "2"},
                stdout=log,
                stderr=log,
            )
        wait_until(self.answers, timeout_s=30)

    def answers(self) -> bool:
        """Tell whether the server answers."""
        try:
            return self.send("/health")[0] == 200
        except OSError:
            return False

    def send(self, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """Send a request and return the status and the JSON of the answer."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        request = Request(f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers)
        try:
            with urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def connect(self, head: str) -> socket.socket:
        """Open a connection and send the beginning of a request."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(head.encode())
        return connection


@pytest.fixture
def web(configuration: None, tmp_path: Path) -> Iterator[WebProcess]:
    """Return a running server that knows a queue."""
    save_queue(spec=spec("simple"), source=Source.API)
    started = WebProcess(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def test_readers_may_wait_up_to_the_limit_and_the_end_of_the_process_sends_them_away(
    web: WebProcess, redis: Any
) -> None:
    task_id = web.send("/queue/add", b'{"queue":"simple","data":{}}')[1]["info"]["id"]
    path, channel = f"/queue/{task_id}?wait=60", ended_channel(task_id)

    with ThreadPoolExecutor(WAITERS) as pool:
        waiters = [pool.submit(web.send, path) for _ in range(WAITERS)]
        wait_until(lambda: redis.pubsub_numsub(channel)[0][1] == 1)
        wait_until(lambda: web.send(f"/queue/{task_id}?wait=0.01")[0] == 503)
        assert web.send(f"/queue/{task_id}")[0] == 200
        started = time.monotonic()
        web.process.send_signal(signal.SIGTERM)
        answers = [waiter.result(20) for waiter in waiters]

    assert [status for status, _ in answers] == [202] * WAITERS
    assert web.process.wait(10) == 0
    assert time.monotonic() - started < 5


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
