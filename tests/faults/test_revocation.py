"""A revoked key is refused by every web process within two seconds, whatever becomes of Redis."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
import redis as redis_py
from structlog.testing import capture_logs

from runqy.broker import keys
from runqy.broker.keys import ended_channel
from runqy.configuration.publishing import compare_configuration, republish_configuration
from runqy.core.environment.connection_urls import RedisTarget
from tests.faults.producers import ENQUEUE, KeptConnection, Reply, Send
from tests.faults.servers import StartWeb
from tests.faults.test_parity import full
from tests.faults.test_redis import stopped
from tests.support.servers import ValkeyServer
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.web import WSGI, WebProcess

pytestmark = pytest.mark.fault

Connect = Callable[[WebProcess], KeptConnection]
Fault = Callable[[ValkeyServer], AbstractContextManager[None]]

REVOKED_S = 2.0
TRIES = 3
"""A busy machine may take longer for one key, but not for each."""
ANSWERED_S = 25.0
"""On a busy machine; about three seconds are meant."""
ENDED_S = 14.0
"""Within this, requests that wait end: before an event stream sends a heartbeat."""

READ_VAULT: Send = ("GET", "/api/vaults/v", b"")
FORBIDDEN: tuple[Send, ...] = (
    READ_VAULT,
    ("POST", "/api/keys", b'{"name":"another","role":"admin"}'),
    ("POST", "/worker/register", b'{"queue":"simple"}'),
    ENQUEUE,
)


class Laptop:
    """An administrator's key that is about to be revoked."""

    def __init__(self, client: KeptConnection) -> None:
        created = client.send("POST", "/api/keys", b'{"name":"laptop","role":"admin"}').content
        self.path = f"/api/keys/{created['api_key']['id']}"
        self.document = f"api_key:{created['api_key']['id']}"
        self._headers = {"Authorization": f"Bearer {created['key']}"}

    def send(self, client: KeptConnection, request: Send) -> Reply:
        """Send a request with the key, again on a new connection where the server closed the last one."""
        reply = client.send(*request, **self._headers)
        return reply if reply.status else client.send(*request, **self._headers)

    def find_last_accepted_s(self, client: KeptConnection, since_s: float) -> float:
        """Return how long after a time the last accepted request was sent; stop after ten times what is allowed.

        It is less by the longest time that a request took: for so long the machine may have delayed the server.
        """
        accepted_s, longest_s = since_s, 0.0
        while (sent_s := time.monotonic()) < since_s + 10 * REVOKED_S:
            reply = self.send(client, READ_VAULT)
            longest_s = max(longest_s, reply.took_s)
            if reply.status == 401:
                return accepted_s - since_s - longest_s
            accepted_s = sent_s
        return math.inf


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """Return a Redis of the test's own: it puts back what was published before."""
    server = ValkeyServer().start()
    yield server
    server.stop()


@pytest.fixture
def webs(start_web: StartWeb, valkey: ValkeyServer, settings: Any) -> list[WebProcess]:
    """Return a server with the data plane and one without, on a Redis that publishes what the database holds."""
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", valkey.port),))
    webs = [start_web(valkey.url), start_web(valkey.url, gunicorn=WSGI)]
    republish_configuration()
    return webs


@pytest.fixture
def clients(webs: list[WebProcess], connect: Connect) -> list[KeptConnection]:
    """Return a connection to each server, and create a vault."""
    opened = [connect(web) for web in webs]
    assert opened[0].send("POST", "/api/vaults", b'{"name":"v"}').status == 201
    return opened


@pytest.fixture
def readers(webs: list[WebProcess], connect: Connect) -> list[KeptConnection]:
    """Return another connection to each server."""
    return [connect(web) for web in webs]


@pytest.fixture
def followed(clients: list[KeptConnection]) -> list[str]:
    """Return the ids of two tasks that stay pending: one to wait for, one whose events are followed."""
    return [clients[0].send(*ENQUEUE).ids[0] for _ in range(2)]


@pytest.mark.parametrize(("fault", "is_published"), [(full, True), (stopped, False)])
def test_a_key_revoked_while_redis_is_full_or_frozen_is_refused_everywhere(  # noqa: PLR0917
    clients: list[KeptConnection],
    readers: list[KeptConnection],
    webs: list[WebProcess],
    connect: Connect,
    followed: list[str],
    valkey: ValkeyServer,
    fault: Fault,
    is_published: bool,
) -> None:
    laptop, *others = [Laptop(clients[0]) for _ in range(TRIES)]
    for client in clients:
        for one in (laptop, *others):
            wait_until(lambda client=client, one=one: one.send(client, READ_VAULT).status == 200)

    def revoke(one: Laptop) -> tuple[Reply, float]:
        """Revoke a key; return the response, and for how long the key was accepted."""
        began_s = time.monotonic()
        revoking = threads.submit(clients[0].send, "DELETE", one.path)
        accepted_s = max(threads.map(lambda client: one.find_last_accepted_s(client, began_s), readers))
        return revoking.result(), accepted_s

    with ThreadPoolExecutor(max_workers=8) as threads, valkey.client() as stored:
        waits = [("GET", f"/queue/{followed[0]}?wait=60", b""), ("GET", f"/queue/{followed[1]}/events", b"")]
        waiting = [threads.submit(laptop.send, connect(web), send) for web in webs for send in waits]
        channels = [ended_channel(task_id) for task_id in followed]
        wait_until(lambda: [count for _, count in stored.pubsub_numsub(*channels)] == [len(webs)] * 2)
        with fault(valkey):
            revoking_s = time.monotonic()
            revoked, accepted_s = revoke(laptop)
            ended = [wait.result(PATIENCE_S).status for wait in waiting]
            ended_s = time.monotonic() - revoking_s
            statuses = [laptop.send(client, request).status for client in clients for request in FORBIDDEN]
        tries_s = [accepted_s]
        while min(tries_s) >= REVOKED_S and others:
            for client in clients:
                wait_until(lambda client=client: others[0].send(client, READ_VAULT).status == 200)
            with fault(valkey):
                tries_s.append(revoke(others.pop(0))[1])

    assert (revoked.status, revoked.content["published"]) == (200, is_published)
    assert revoked.took_s < ANSWERED_S, f"the response took {revoked.took_s:.1f} s"
    assert min(tries_s) < REVOKED_S, f"accepted for {tries_s} s"
    assert statuses == [401] * len(statuses)
    waits_ended, streams_ended = ended[::2], ended[1::2]
    assert waits_ended == [401] * len(webs)
    assert set(streams_ended) <= {200, 503}, "503: the stream had not begun when Redis stopped"
    assert ended_s < ENDED_S, f"waits went on for {ended_s:.1f} s"


@pytest.mark.parametrize("put_back", ["revisions", "unsigned", "everything"])
def test_an_older_list_of_revisions_put_back_is_reported_and_repaired_and_the_revoked_key_stays_refused(
    clients: list[KeptConnection], stored: redis_py.Redis, put_back: str
) -> None:
    laptop = Laptop(clients[0])
    old = {key: stored.dump(key) for key in (keys.CONFIG_REVISIONS, keys.CONFIG_DOCUMENTS)}
    assert clients[0].send("DELETE", laptop.path).status == 200
    republish_configuration()  # where a busy machine has delayed Redis
    for client in clients:
        wait_until(lambda client=client: laptop.send(client, READ_VAULT).status == 401)

    for key in old if put_back == "everything" else [keys.CONFIG_REVISIONS]:
        stored.restore(key, 0, old[key], replace=True)
    if put_back == "unsigned":
        stored.set(keys.CONFIG_REVISIONS, "0123456789abcdef" * 2)
    for client in clients:
        wait_until(lambda client=client: "configuration" in warnings(client))
    refused = [laptop.send(client, request).status for client in clients for request in FORBIDDEN]
    reported = compare_configuration()
    with capture_logs() as logs:
        republish_configuration()

    assert refused == [401] * len(refused)
    assert reported.problem is not None
    assert laptop.document in reported.outdated
    assert {"configuration_republished"} <= {log["event"] for log in logs}
    for client in clients:
        wait_until(lambda client=client: "configuration" not in warnings(client))
    assert compare_configuration().is_agreed
    assert [laptop.send(client, READ_VAULT).status for client in clients] == [401, 401]


def warnings(client: KeptConnection) -> list[str]:
    """Return the checks that are not passed."""
    checks = client.send("GET", "/readyz?verbose").content["checks"]
    return [check["check"] for check in checks if check["status"] != "ok"]


def test_a_web_process_that_starts_on_an_older_state_refuses_the_revoked_key(
    clients: list[KeptConnection],
    start_web: StartWeb,
    connect: Connect,
    valkey: ValkeyServer,
    stored: redis_py.Redis,
) -> None:
    laptop = Laptop(clients[0])
    old = {key: stored.dump(key) for key in (keys.CONFIG_REVISIONS, keys.CONFIG_DOCUMENTS)}
    clients[0].send("DELETE", laptop.path)
    for key, content in old.items():
        stored.restore(key, 0, content, replace=True)

    started = connect(start_web(valkey.url))

    assert laptop.send(started, READ_VAULT).status == 401
    assert "configuration" in warnings(started)
