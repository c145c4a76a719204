"""Streams of tasks on real servers: connections that break, clients that do not read, and how a response ends."""

import json
import signal
import threading
from collections.abc import Callable
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path

import pytest
import redis as redis_py

from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.broker.broker import Broker
from runqy.broker.keys import ended_channel
from runqy.broker.tasks.chunks import MAX_READ_BYTES
from runqy.broker.tasks.lease import LeasedTask
from tests.support.environment import ADMIN_KEY
from tests.support.tasks import put, take_one
from tests.support.waiting import wait_until
from tests.support.web import ASGI, WSGI, WebProcess
from tests.tasks.task_helpers import drop_chunks, run_again, stream, succeed
from tests.tasks.test_waiting_servers import read_event

CHUNKS = 5_000
RECONNECTIONS = 20

SERVERS = pytest.mark.parametrize("gunicorn", [ASGI, WSGI], ids=["data_plane", "wsgi"])

StartWeb = Callable[..., WebProcess]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def taken(configuration: None, single_broker: Broker) -> LeasedTask:
    """Return a task of the queue `simple` that runs."""
    put(single_broker, "t1", queue="simple", retention_s=3600)
    return take_one(single_broker, "simple")


def read_to_the_end(response: HTTPResponse) -> tuple[bytes, bool]:
    """Return the rest of a response, and whether it is complete."""
    try:
        return response.read(), True
    except IncompleteRead as error:
        return error.partial, False


@SERVERS
def test_a_response_ends_only_after_the_whole_stream_of_a_run_that_succeeded(
    start_web: StartWeb,
    taken: LeasedTask,
    single_broker: Broker,
    gunicorn: tuple[str, ...],
    tmp_path: Path,
) -> None:
    web = start_web(gunicorn)

    stream(single_broker, taken, b'"a"')
    with web.stream("/queue/t1/stream") as failed:
        begun = failed.read(1)
        again = run_again(single_broker, taken)
        outcomes = [read_to_the_end(failed)]
    stream(single_broker, again, b'"b"')
    with web.stream("/queue/t1/stream") as whole:
        begun += whole.read(1)
        stream(single_broker, again, b'"c"', offset=1)
        succeed(single_broker, again, b"1")
        outcomes.append(read_to_the_end(whole))
    put(single_broker, "t2", queue="simple", retention_s=3600)
    other = take_one(single_broker, "simple")
    stream(single_broker, other, b'"d"')
    with web.stream("/queue/t2/stream") as with_gap:
        begun += with_gap.read(1)
        drop_chunks(single_broker, other, b'"e"', offset=1)
        succeed(single_broker, other, b"1")
        outcomes.append(read_to_the_end(with_gap))

    assert begun == b"abd"
    assert outcomes == [(b"", False), (b"c", True), (b"", False)]
    assert "Traceback" not in (tmp_path / "log-0").read_text()


def test_draining_breaks_a_stream_off_and_events_continue_elsewhere(
    start_web: StartWeb, taken: LeasedTask, single_broker: Broker
) -> None:
    draining, other = start_web(RUNQY_DRAIN_S="600"), start_web()
    stream(single_broker, taken, b'"a"')

    with draining.stream("/queue/t1/stream") as text, draining.stream("/queue/t1/events") as events:
        text.read(1)
        seen = [read_event(events), read_event(events)]
        draining.process.send_signal(signal.SIGTERM)
        rests = [read_to_the_end(text), read_to_the_end(events)]
    stream(single_broker, taken, b'"b"', offset=1)
    with other.stream("/queue/t1/events", **{"Last-Event-ID": seen[-1]["id"]}) as events:
        seen.append(read_event(events))

    assert rests == [(b"", False), (b"", True)]
    assert [event["id"] for event in seen] == ["1-0-active-1", "1-1-active-1", "1-2-active-1"]


def test_twenty_reconnections_within_five_thousand_chunks_lose_and_repeat_nothing(
    start_web: StartWeb, taken: LeasedTask, single_broker: Broker
) -> None:
    web = start_web()

    def write() -> None:
        for offset in range(0, CHUNKS, 25):
            stream(single_broker, taken, *(b"%d" % number for number in range(offset, offset + 25)), offset=offset)
        succeed(single_broker, taken, b'"done"')

    writer = threading.Thread(target=write)
    events: list[dict[str, str]] = []
    last_id, connections = "", 0
    while not events or events[-1]["event"] != "end":
        limit = (connections + 1) * CHUNKS // (RECONNECTIONS + 1) if connections < RECONNECTIONS else CHUNKS * 2
        connections += 1
        with web.stream("/queue/t1/events", **{"Last-Event-ID": last_id}) as response:
            while len(events) < limit and (event := read_event(response)):
                if not events:
                    writer.start()  # a server that starts slowly would miss the state in which the task runs
                events.append(event)
                last_id = event.get("id", last_id)
    writer.join()
    with web.stream("/queue/t1/events", **{"Last-Event-ID": last_id}) as response:
        status = response.status

    chunks = [json.loads(event["data"])["chunk"] for event in events if event["event"] == "chunk"]
    assert connections == RECONNECTIONS + 1
    assert chunks == list(range(CHUNKS))
    assert [event["event"] for event in events if event["event"] != "chunk"] == ["state", "end"]
    assert status == 204


def test_clients_that_never_read_hold_up_nobody(
    start_web: StartWeb, taken: LeasedTask, single_broker: Broker, redis: redis_py.Redis
) -> None:
    web = start_web()
    big = b'"%s"' % (b"x" * 60_000)
    for offset in range(0, 60, 10):
        stream(single_broker, taken, *[big] * 10, offset=offset)
    head = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n"

    def sent_bytes() -> int:
        return int(redis.info("stats")["total_net_output_bytes"])

    before = sent_bytes()
    with web.connect(f"GET /queue/t1/events {head}"), web.connect(f"GET /queue/t1/stream {head}"):
        wait_until(lambda: sent_bytes() - before > 3 * MAX_READ_BYTES / 2)  # both have begun
        with web.stream("/queue/t1/stream") as response:
            succeed(single_broker, taken, b"1")
            whole = read_to_the_end(response)

    assert whole == (b"x" * 60 * 60_000, True)
    wait_until(lambda: not redis.pubsub_channels(ended_channel("*")))


def test_a_key_that_is_revoked_during_a_stream_ends_it(
    start_web: StartWeb, taken: LeasedTask, single_broker: Broker
) -> None:
    web = start_web()
    stream(single_broker, taken, b'"a"')
    created = create_api_key(name="shop", role="client")
    key = created.plain
    wait_until(lambda: web.send("/queue/t1", key=key)[0] == 200)

    with web.stream("/queue/t1/stream", key=key) as text, web.stream("/queue/t1/events", key=key) as events:
        assert text.read(1) == b"a"
        seen = [read_event(events)["event"], read_event(events)["event"]]
        revoke_api_key(key_id=created.row.pk)
        rests = [read_to_the_end(text), read_to_the_end(events)]

    assert seen == ["state", "chunk"]
    assert rests == [(b"", False), (b"", True)]
