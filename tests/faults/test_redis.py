"""A web process whose Redis fails under load keeps accepted tasks, refuses others quickly, and recovers."""

import os
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.core.environment.connection_urls import RedisTarget
from tests.faults.producers import (
    BATCH_SIZE,
    ENQUEUE,
    ENQUEUE_BATCH,
    QUEUE,
    UNAVAILABLE,
    KeptConnection,
    Producers,
    Reply,
    Send,
    is_accepted,
    is_refused,
    producing,
)
from tests.faults.servers import PATIENT, PATIENT_WSGI, StartWeb
from tests.faults.stored import KEYS, check_tasks
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.processes import paused
from tests.support.servers import ValkeyServer
from tests.support.tasks import take
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.web import WebProcess
from tests.tasks.task_helpers import succeed

pytestmark = pytest.mark.fault

Connect = Callable[[WebProcess], KeptConnection]

SOON_S = 25.0
"""Within this a request is refused on a busy machine; about two seconds are meant."""
PROBED_S = 2.5
"""The same of a probe, which waits for no other request, and is sent a few times."""
RECOVERY_S = 30.0
LOAD = (ENQUEUE, ENQUEUE, ENQUEUE, ENQUEUE_BATCH)


def check_refusals(producers: Producers) -> None:
    """Check that every request was accepted, or refused soon, as one to repeat."""
    assert producers.outcomes().keys() <= {(200, ""), *UNAVAILABLE}, producers.outcomes()
    refused = [reply for reply in producers.replies if is_refused(reply)]
    assert {reply.headers["retry-after"] for reply in refused} == {"2"}
    slowest_s = max(reply.took_s for reply in refused)
    assert slowest_s < SOON_S, f"the slowest refusal took {slowest_s:.1f} s"


def check_probes(probes: list[Reply]) -> None:
    """Check that the process is alive and not ready; a busy machine may delay a probe, but not each of a kind."""
    assert [probe.status for probe in probes] == [200, 503] * (len(probes) // 2)
    for kind in (probes[::2], probes[1::2]):
        assert min(probe.took_s for probe in kind) < PROBED_S, [probe.took_s for probe in probes]


def check_recovery(recovery_s: float) -> None:
    assert recovery_s < RECOVERY_S, f"it took {recovery_s:.1f} s until a task was accepted again"


@contextmanager
def stopped(server: ValkeyServer) -> Iterator[None]:
    """Have a server accept connections without responding."""
    assert server.process is not None
    with paused(server.process.pid):
        yield


@contextmanager
def silenced(network: BadNetwork) -> Iterator[None]:
    """Have a network accept connections and carry nothing; those that exist then stay dead."""
    network.mode = FaultMode.SILENT
    yield
    network.half_open()
    network.mode = FaultMode.FINE


def read_task(producers: Producers) -> Send:
    """Return the request that reads the first task that was accepted."""
    return "GET", f"/queue/{producers.ids[0]}", b""


def test_no_accepted_task_is_lost_when_redis_restarts(
    web: WebProcess, valkey: ValkeyServer, stored: redis_py.Redis
) -> None:
    with producing(web.port, *LOAD) as producers:
        producers.wait_for(is_accepted, 50)
        valkey.kill()
        producers.wait_for(is_refused, 20)
        valkey.start()
        recovery_s = producers.wait_for(is_accepted, 50)

    check_recovery(recovery_s)
    check_refusals(producers)
    check_tasks(producers.ids, stored, allows_lookups=True)


def test_a_power_cut_loses_only_what_redis_had_not_synced(
    web: WebProcess, valkey: ValkeyServer, stored: redis_py.Redis, connect: Connect
) -> None:
    stored.config_set("appendfsync", "everysec")  # until it starts again
    (log,) = valkey.folder.glob("appendonlydir/*.incr.aof")

    with producing(web.port, *LOAD) as producers:
        producers.wait_for(is_accepted, 50)
        synced = producers.ids
        wait_until(lambda: not stored.info("persistence")["aof_buffer_length"])
        size = log.stat().st_size
        producers.wait_for(is_accepted, 20)
        valkey.kill()
        os.truncate(log, size)  # the rest was in the memory of the machine
        accepted = producers.ids
        valkey.start()
        producers.wait_for(is_accepted, 50)

    check_tasks(synced, stored, allows_lookups=True)
    lost = set(accepted) - {task_id.decode() for task_id in stored.lrange(KEYS.pending, 0, -1)}
    assert lost
    assert lost <= set(accepted) - set(synced)
    assert connect(web).send_until_available("GET", f"/queue/{min(lost)}").status == 404


def test_requests_succeed_after_all_connections_were_cut(
    distant_web: WebProcess, network: BadNetwork, stored: redis_py.Redis
) -> None:
    refused = []
    with producing(distant_web.port, *LOAD) as producers:
        producers.wait_for(is_accepted, 20)
        for _ in range(10):
            before = len(producers.replies)
            network.reset()
            producers.wait_for(is_accepted, 20)
            refused.append(sum(map(is_refused, producers.replies[before:])))

    outcomes = producers.outcomes()
    assert outcomes.keys() <= {(200, ""), *UNAVAILABLE}, outcomes
    assert statistics.median(refused) <= len(LOAD), refused  # a busy machine may take long now and then
    check_tasks(producers.ids, stored, allows_lookups=True)


def test_a_latency_of_half_a_second_fails_no_request(
    patient_plane: WebProcess, network: BadNetwork, stored: redis_py.Redis, connect: Connect
) -> None:
    network.latency_s = 0.25  # there and back
    client = connect(patient_plane)
    assert client.send_until_available(*ENQUEUE).status == 200
    network.mode = FaultMode.SLOW

    with producing(patient_plane.port, *LOAD) as producers:
        producers.wait_for(is_accepted, 12)
        read = client.send(*read_task(producers))

    assert (producers.outcomes() + Counter([(read.status, read.code)])).keys() == {(200, "")}
    assert min(reply.took_s for reply in [read, *producers.replies]) > 0.5
    check_tasks(producers.ids, stored)


def test_a_full_redis_accepts_no_tasks_and_drains(
    web: WebProcess, valkey: ValkeyServer, stored: redis_py.Redis, connect: Connect
) -> None:
    client = connect(web)
    accepted = [task_id for _ in range(5) for task_id in client.send_until_available(*ENQUEUE).ids]
    broker = Broker(RedisTarget(addresses=(("127.0.0.1", valkey.port),)))

    stored.config_set("maxmemory", 1)
    refused = [client.send_until_available(*send) for send in (ENQUEUE, ENQUEUE_BATCH)]
    read = client.send_until_available("GET", f"/queue/{accepted[0]}")
    wait_until(lambda: client.send("GET", "/readyz").status == 200)  # on a busy machine a check may take too long
    for taken in take(broker, 5, QUEUE):
        succeed(broker, taken, b"{}")
    ended = [client.send_until_available("GET", f"/queue/{task_id}").content["info"]["state"] for task_id in accepted]
    stored.config_set("maxmemory", 0)
    broker.close()

    assert [(reply.status, reply.code, reply.headers["retry-after"]) for reply in refused] == [
        (503, "broker_full", "2"),
        (503, "broker_full", "2"),
    ]
    assert read.status == 200
    assert ended == ["completed"] * 5
    assert stored.llen(KEYS.pending) == 0
    assert client.send_until_available(*ENQUEUE).status == 200


def test_an_evicting_redis_is_reported(web: WebProcess, stored: redis_py.Redis, connect: Connect) -> None:
    client = connect(web)

    def warnings() -> list[str]:
        checks = client.send("GET", "/readyz?verbose").content["checks"]
        return [check["check"] for check in checks if check["status"] == "warning"]

    stored.config_set("maxmemory-policy", "allkeys-lru")
    wait_until(lambda: "redis_eviction" in warnings())

    stored.config_set("maxmemory-policy", "noeviction")
    wait_until(lambda: "redis_eviction" not in warnings())


def test_a_silent_redis_fails_requests_quickly_and_the_process_stays_alive(
    web: WebProcess, valkey: ValkeyServer, stored: redis_py.Redis, connect: Connect
) -> None:
    client = connect(web)
    with producing(web.port, *LOAD) as producers:
        producers.wait_for(is_accepted, 20)
        with stopped(valkey):
            producers.wait_for(is_refused, 20)
            probes = [client.send("GET", path) for path in ("/livez", "/readyz") * 3]
            read = client.send(*read_task(producers))
        recovery_s = producers.wait_for(is_accepted, 20)

    check_recovery(recovery_s)
    check_refusals(producers)
    check_probes(probes)
    assert (read.status, read.code) == (503, "broker_unavailable")
    assert read.took_s < SOON_S
    check_tasks(producers.ids, stored)


@pytest.mark.parametrize("kind", ["stopped", "black_hole"])
def test_a_silent_redis_holds_no_request_while_others_follow(
    distant_web: WebProcess, network: BadNetwork, valkey: ValkeyServer, kind: str
) -> None:
    replies: list[Reply] = []
    senders: list[threading.Thread] = []

    def send() -> None:
        client = KeptConnection(distant_web.port, timeout_s=PATIENCE_S)
        replies.append(client.send(*ENQUEUE))
        client.close()

    def follows() -> bool:
        """Send one more request, whether the others have been answered or not."""
        senders.append(threading.Thread(target=send))
        senders[-1].start()
        return len(replies) >= 20

    with stopped(valkey) if kind == "stopped" else silenced(network):
        wait_until(follows)
        answered = list(replies)
    for sender in senders:
        sender.join()

    assert {(reply.status, reply.code) for reply in answered} <= UNAVAILABLE
    with producing(distant_web.port, ENQUEUE) as producers:
        check_recovery(producers.wait_for(is_accepted, 20))


def test_a_silent_redis_delays_no_probe(web: WebProcess, valkey: ValkeyServer, connect: Connect) -> None:
    register: Send = ("POST", "/worker/register", b'{"queue":"simple"}')
    hanging = [*[("GET", "/api/cli/queues", b"")] * 20, *[("GET", "/health", b"")] * 4]
    client = connect(web)
    with stopped(valkey), producing(web.port, *hanging) as others, producing(web.port, *[register] * 8) as workers:
        wait_until(lambda: client.send("GET", "/readyz").status == 503)  # a result may be a second old
        probes = [client.send("GET", path) for path in ("/livez", "/readyz") * 3]
        others.wait_for(is_refused, 40)
        workers.wait_for(is_accepted, 8)

    check_probes(probes)
    assert others.outcomes().keys() <= {(503, "broker_unavailable"), (503, "server_busy")}, others.outcomes()
    assert workers.outcomes().keys() == {(200, "")}, workers.outcomes()  # from the snapshot
    hung_s = max(reply.took_s for reply in (*others.replies, *workers.replies))
    assert hung_s < SOON_S, f"the slowest request took {hung_s:.1f} s"


def test_a_process_that_starts_while_redis_is_silent_serves_once_it_responds(
    start_web: StartWeb, valkey: ValkeyServer, connect: Connect
) -> None:
    with stopped(valkey):
        web = start_web(valkey.url, started="/livez")
        client = connect(web)
        refused = client.send(*ENQUEUE)

    assert (refused.status, refused.code) == (503, "broker_unavailable")
    wait_until(lambda: client.send(*ENQUEUE).status == 200, RECOVERY_S)


@pytest.mark.parametrize(
    ("mode", "loss"),
    [(FaultMode.LOSES_RESPONSES, 0.02), (FaultMode.LOSES_RESPONSES, 0.3), (FaultMode.CLOSES_SLOWLY, 0.1)],
)
def test_lost_replies_neither_lose_nor_duplicate_tasks(
    distant_web: WebProcess, network: BadNetwork, stored: redis_py.Redis, mode: FaultMode, loss: float
) -> None:
    unique = b'{"queue":"simple","data":{},"unique_key":"%d"}'
    keyed: list[Reply] = []

    def send_keyed() -> None:
        """Send requests that are done once, each until it is."""
        client = KeptConnection(distant_web.port)
        for number in range(40):
            while True:
                keyed.append(client.send("POST", "/queue/add", unique % number, **{"Idempotency-Key": f"k{number}"}))
                if keyed[-1].status != 503:
                    break
        client.close()

    administer: list[Send] = [("GET", "/api/cli/queues", b""), ("POST", "/api/cli/queues/simple/unpause", b"")]
    network.loss = loss
    with (
        producing(distant_web.port, *LOAD) as producers,
        producing(distant_web.port, *administer) as administrators,
    ):
        producers.wait_for(is_accepted, 20)
        network.mode = mode
        sender = threading.Thread(target=send_keyed)
        sender.start()
        producers.wait_for(is_accepted, 100, timeout_s=60)
        sender.join(60)
        assert not sender.is_alive()
        network.mode = FaultMode.FINE
        recovery_s = producers.wait_for(is_accepted, 20)
        administrators.wait_for(is_accepted, 2)

    check_recovery(recovery_s)
    for outcomes in (administrators.outcomes(), producers.outcomes()):
        assert outcomes.keys() <= {(200, ""), *UNAVAILABLE}, outcomes
        assert outcomes[200, ""]
    assert [reply.status for reply in keyed if reply.status != 503] == [200] * 40
    accepted = [*producers.ids, *(task_id for reply in keyed for task_id in reply.ids)]
    assert len(set(accepted)) == len(accepted)
    check_tasks(accepted, stored, allows_lookups=True)
    in_doubt = outcomes[503, "outcome_unknown"] * BATCH_SIZE
    assert stored.llen(KEYS.pending) <= len(accepted) + in_doubt


@pytest.fixture(params=[PATIENT, PATIENT_WSGI], ids=["data plane", "threads"])
def patient_plane(request: pytest.FixtureRequest, share_web: StartWeb, network: BadNetwork) -> WebProcess:
    """Return a patient server, with the data plane or with Django alone, that reaches Redis through the network."""
    return share_web(f"redis://127.0.0.1:{network.port}/0", request.param)


def test_a_large_body_that_takes_seconds_delays_no_small_request(
    patient_plane: WebProcess, network: BadNetwork, connect: Connect, stored: redis_py.Redis
) -> None:
    large: Send = "POST", "/queue/add", b'{"queue":"simple","data":{"text":"%s"}}' % (b"x" * 30_000_000)
    client, replies = connect(patient_plane), list[Reply]()
    assert client.send_until_available(*ENQUEUE).status == 200
    sender = threading.Thread(target=lambda: replies.append(connect(patient_plane).send(*large)))
    network.mode, network.bytes_per_s = FaultMode.NARROW, 100_000
    before = stored.info("stats")["total_net_input_bytes"]
    sender.start()
    wait_until(lambda: stored.info("stats")["total_net_input_bytes"] > before + 200_000)

    small = [client.send(*ENQUEUE) for _ in range(3)]

    assert {reply.status for reply in small} == {200}
    assert not replies  # they came while it was on its way
    network.mode = FaultMode.FINE
    sender.join()
    assert replies[0].status == 200


def test_a_write_whose_reply_is_lost_has_an_unknown_outcome_and_can_be_repeated(
    patient_plane: WebProcess, network: BadNetwork, connect: Connect, stored: redis_py.Redis
) -> None:
    client, key = connect(patient_plane), {"Idempotency-Key": f"repeated-{patient_plane.port}"}
    assert client.send_until_available(*ENQUEUE).status == 200
    before = stored.llen(KEYS.pending)

    network.mode, network.loss = FaultMode.LOSES_RESPONSES, 1.0
    lost = client.send(*ENQUEUE, **key)
    network.mode = FaultMode.FINE
    wait_until(lambda: is_accepted(client.send(*ENQUEUE, **key)))

    assert lost.code == "outcome_unknown"
    assert "Idempotency-Key" in lost.content["detail"]
    assert stored.llen(KEYS.pending) == before + 1


def test_flushed_scripts_fail_no_request(patient_plane: WebProcess, stored: redis_py.Redis, connect: Connect) -> None:
    client = connect(patient_plane)

    with producing(patient_plane.port, *LOAD) as producers:
        for _ in range(10):
            producers.wait_for(is_accepted, 10)
            stored.script_flush()
            assert client.send(*read_task(producers)).status == 200

    assert producers.outcomes().keys() == {(200, "")}
    check_tasks(producers.ids, stored)
