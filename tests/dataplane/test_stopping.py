"""How a real web process ends and reloads, with connections open."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.server.dataplane.protocol import HttpProtocol
from tests.dataplane.servers import parse, receive_all, receive_until
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.processes import paused
from tests.support.servers import free_port
from tests.support.waiting import eventually, wait_until
from tests.support.web import WebProcess

pytestmark = pytest.mark.slow

StartWeb = Callable[..., WebProcess]


@pytest.fixture
def start(configuration: None, tmp_path: Path) -> Iterator[StartWeb]:
    """Return a function that starts a server with a queue."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    started: list[WebProcess] = []

    def start(**options: Any) -> WebProcess:
        started.append(WebProcess(tmp_path, **options))
        return started[-1]

    yield start
    for web in started:
        web.kill()


def is_draining(web: WebProcess) -> bool:
    """Return whether the process reports that it ends."""
    return [check["check"] for check in web.send("/readyz?verbose")[1].get("checks", ())] == ["process"]


def test_a_process_stops_despite_open_connections_and_incomplete_bodies(start: StartWeb) -> None:
    web = start()
    idle = web.connect("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    receive_until(idle, b'{"status":"ok"}')
    half_head = web.connect("GET /livez HTTP/1.1\r\n")
    half_body = web.connect(
        f"POST /queue/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 9\r\n\r\n{{"
    )
    assert web.send("/livez")[0] == 200  # accepted after those

    web.process.send_signal(signal.SIGTERM)
    with idle, half_head, half_body:
        assert receive_all(idle) == b""
        assert receive_all(half_head) == b""
        assert parse(receive_all(half_body)).code == "request_timeout"

    assert web.process.wait(30) == 0


def test_a_body_that_completes_in_time_is_accepted_while_the_process_stops(start: StartWeb) -> None:
    web = start()
    body = '{"queue":"simple","data":{}}'
    head = f"POST /queue/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    with web.connect(f"{head}Content-Length: {len(body)}\r\n\r\n{body[:5]}") as connection:
        assert web.send("/livez")[0] == 200
        web.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(web))
        connection.sendall(body[5:].encode())
        reply = parse(receive_all(connection))

    assert reply.status == 200
    assert web.process.wait(30) == 0


def accepts(web: WebProcess) -> bool:
    """Return whether the server takes connections."""
    try:
        web.connect("").close()
    except ConnectionRefusedError:
        return False
    return True


def wait_for_task(web: WebProcess, statuses: list[int]) -> threading.Thread:
    """Wait for the result of a new task on a thread, which notes the status of the response."""
    task_id = web.send("/queue/add", b'{"queue":"simple","data":{}}')[1]["info"]["id"]
    thread = threading.Thread(target=lambda: statuses.append(web.send(f"/queue/{task_id}?wait=120")[0]))
    thread.start()
    return thread


def test_draining_responds_to_waiting_clients(start: StartWeb, redis: object) -> None:
    web, statuses = start(RUNQY_DRAIN_S="60"), list[int]()
    waiter = wait_for_task(web, statuses)
    wait_until(lambda: redis.pubsub_channels("runqy:ended:*"))  # type: ignore[attr-defined]

    web.process.send_signal(signal.SIGTERM)
    waiter.join(30)

    assert statuses == [202]
    assert is_draining(web)


def test_a_second_signal_stops_a_draining_process_at_once(start: StartWeb) -> None:
    web = start(RUNQY_DRAIN_S="60")
    worker = web.workers()[0]
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: is_draining(web))

    worker.send_signal(signal.SIGTERM)

    wait_until(lambda: not worker.is_alive())


def test_sigusr1_ends_waits(start: StartWeb, redis: object) -> None:
    web, statuses = start(), list[int]()
    waiter = wait_for_task(web, statuses)
    wait_until(lambda: redis.pubsub_channels("runqy:ended:*"))  # type: ignore[attr-defined]

    web.process.send_signal(signal.SIGUSR1)
    waiter.join(30)

    assert statuses == [202]
    assert is_draining(web)
    assert web.send("/queue/add", b'{"queue":"simple","data":{}}')[0] == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_leaves_nothing_running(start: StartWeb, number: signal.Signals) -> None:
    web = start(RUNQY_DRAIN_S="60")
    workers = web.workers()

    web.process.send_signal(number)

    assert web.process.wait(30) == 0
    wait_until(lambda: not any(worker.is_alive() for worker in workers))


def test_a_process_whose_master_died_ends_and_frees_the_port(start: StartWeb) -> None:
    web = start()
    (worker,) = web.workers()

    web.process.kill()
    web.process.wait()

    wait_until(lambda: not worker.is_alive())
    assert not accepts(web)


class Sender:
    """Sends requests one after another on a thread; only when a connection is refused does it try the next server."""

    def __init__(self, *ports: int, keeps_alive: bool) -> None:
        self._connections = [HTTPConnection("127.0.0.1", port, timeout=60) for port in ports]
        self._headers = {} if keeps_alive else {"Connection": "close"}
        self._may_end = False
        self.count = 0
        self.failures: list[object] = []
        self.longest_s = 0.0
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def end(self) -> None:
        self._may_end = True
        self._thread.join(60)

    def _send(self) -> None:
        began_s = sent_s = time.monotonic()
        while not self._may_end:
            connection, previous_s = self._connections[0], sent_s
            try:
                connection.request("GET", "/livez", headers=self._headers)
                sent_s = time.monotonic()
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.failures.append(response.status)
            except ConnectionRefusedError:
                connection.close()
                self._connections.append(self._connections.pop(0))
                continue
            except (OSError, HTTPException) as error:
                connection.close()
                # A process that stops waits so long for a request after its last response, which this thread may have
                # read late, but which came after the previous request was sent.
                if (sent_s if sent_s > previous_s else time.monotonic()) - previous_s < HttpProtocol.unused_timeout_s:
                    self.failures.append(error)
            self.count += 1
            ended_s = time.monotonic()
            self.longest_s, began_s = max(self.longest_s, ended_s - began_s), ended_s
        for connection in self._connections:
            connection.close()


def test_a_reload_fails_no_request(start: StartWeb) -> None:
    web = start()
    before = web.workers()
    senders = [Sender(web.port, keeps_alive=False) for _ in range(4)]

    web.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not any(worker.is_alive() for worker in before), timeout_s=60)
    for sender in senders:
        sender.end()

    assert [sender.failures for sender in senders] == [[]] * 4
    assert web.workers()


def test_a_connection_waits_until_a_server_that_starts_can_respond(start: StartWeb) -> None:
    web = start(port=free_port(), started="")
    (worker,) = eventually(web.workers, within_s=60)

    with paused(worker.pid):
        connection = web.connect("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    with connection:
        assert parse(receive_all(connection)).status == 200


def test_the_first_connection_that_a_starting_server_accepts_gets_a_response(start: StartWeb) -> None:
    web = start(port=free_port(), started="")

    while True:  # without a pause: it would miss a moment in which the server listens too early
        connection = HTTPConnection("127.0.0.1", web.port, timeout=60)
        with suppress(ConnectionRefusedError):
            connection.connect()
            break
    connection.request("GET", "/livez")
    status = connection.getresponse().status
    connection.close()

    assert status == 200


def test_a_rolling_restart_fails_no_request(start: StartWeb) -> None:
    ports = free_port(), free_port()
    webs = [start(port=port, processes=2, RUNQY_DRAIN_S="600") for port in ports]
    senders = [Sender(*ports, keeps_alive=keeps_alive) for keeps_alive in (True, True, False, False)]

    for number in (0, 1):
        web, workers = webs[number], webs[number].workers()
        web.process.send_signal(signal.SIGTERM)
        wait_until(lambda web=web: is_draining(web))
        for sender in senders:
            wait_until(lambda sender=sender, enough=sender.count + 3: sender.count > enough)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)  # ends the draining
        assert web.process.wait(60) == 0
        if number == 0:
            webs[0] = start(port=ports[0], RUNQY_DRAIN_S="600")
    for sender in senders:
        sender.end()

    assert [sender.failures for sender in senders] == [[]] * 4
