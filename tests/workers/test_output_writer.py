"""How much output a worker keeps and sends, for all tasks of a queue together."""

import asyncio
import json

import pytest

from runqy import clock
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.tasks.output import MAX_BYTES, read_output
from runqy.broker.tasks.record import TaskProgress
from runqy.core.environment.connection_urls import RedisTarget
from tests.support import environment, event_loop
from tests.support.redis_client import redis_of
from tests.support.tasks import put, take
from workers.runtime import output_writer
from workers.runtime.output_writer import BUFFER_BYTES, BURST_BYTES, TAIL_BYTES, OutputWriter, record_all
from workers.runtime.protocol import ProgressReport, decode_response
from workers.runtime.redaction import Secrets
from workers.runtime.task_runs import Run

TARGET = RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))
CLOSED = RedisTarget(addresses=(("127.0.0.1", 1),))
LINE = b"x" * 999 + b"\n"


def runs(broker: Broker, count: int) -> list[Run]:
    """Return runs of so many tasks."""
    put(broker, *(f"t{n}" for n in range(count)))
    return [Run(task=task, line=b"") for task in take(broker, count)]


def test_tasks_that_end_together_send_no_more_than_the_rate_allows_and_always_their_ends(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_runs = runs(single_broker, 100)
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)  # time would allow more

    async def finish_all() -> None:
        broker = AsyncBroker.connect(TARGET)
        writer = OutputWriter(lambda: broker)
        for run in all_runs:
            writer.add([run], LINE * 100, is_line=False)
            writer.add([run], b"the end", is_line=True)
        planned = writer.plan_final(all_runs)
        record_all(planned, await broker.send_all([write.request for write in planned]))
        await writer.close()
        await broker.close()

    event_loop.run(finish_all())

    outputs = [single_broker.run(read_output("mail", f"t{n}")).text for n in range(100)]
    sizes = [len(text) for text in outputs]
    assert sizes[0] > MAX_BYTES - 1000
    assert sum(sizes) <= BURST_BYTES + 100 * TAIL_BYTES
    assert min(sizes) > TAIL_BYTES - 1000
    assert all(text.endswith(b"\nthe end\n") for text in outputs)
    assert outputs[-1].startswith(b"[")


def test_memory_is_limited_while_redis_is_unavailable(single_broker: Broker) -> None:
    all_runs = runs(single_broker, 100)

    async def flood() -> int:
        broker = AsyncBroker.connect(CLOSED, connect_timeout_s=0.1)
        writer = OutputWriter(lambda: broker)
        for _ in range(10):
            for run in all_runs:
                writer.add([run], LINE * 100, is_line=False)
            await asyncio.sleep(0.1)
        size = sum(len(run.output or b"") for run in all_runs)
        await writer.close()
        await broker.close()
        return size

    assert event_loop.run(flood()) <= 3 * BUFFER_BYTES


def test_a_secret_is_masked_where_a_message_is_cut(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = Secrets()
    secrets.add(["hunter2-hunter2"])
    monkeypatch.setattr(output_writer, "secrets", secrets)
    (run,) = runs(single_broker, 1)
    line = b'{"progress":{"current":1,"message":"%bhunter2-hunter2 and more"}}' % (b"x" * 490)

    async def report() -> bytes:
        writer = OutputWriter(lambda: AsyncBroker.connect(TARGET))
        decoded = decode_response(line)
        assert isinstance(decoded, ProgressReport)
        writer.set_progress(run, decoded.progress)
        single_broker.run_all([write.request for write in writer.plan_final([run])])
        await writer.close()
        return redis_of(single_broker).hget("asynq:{mail}:t:t0", "progress")

    assert json.loads(event_loop.run(report()))["message"] == "x" * 490 + "**** and m…"


def test_output_and_progress_are_sent_together_for_all_tasks(single_broker: Broker) -> None:
    all_runs = runs(single_broker, 3)

    async def print_and_wait() -> None:
        broker = AsyncBroker.connect(TARGET)
        writer = OutputWriter(lambda: broker)
        for run in all_runs:
            writer.add([run], run.task_id.encode(), is_line=True)
        writer.set_progress(all_runs[0], TaskProgress(1, 2))
        await event_loop.wait_until(lambda: all(run.output is not None and not len(run.output) for run in all_runs))
        await writer.close()
        await broker.close()

    calls_before = redis_of(single_broker).info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    event_loop.run(print_and_wait())

    calls = redis_of(single_broker).info("commandstats")["cmdstat_evalsha"]["calls"] - calls_before
    assert calls <= 2  # the first of them loads the script
    assert [single_broker.run(read_output("mail", f"t{n}")).text for n in range(3)] == [b"t0\n", b"t1\n", b"t2\n"]
    assert redis_of(single_broker).hget("asynq:{mail}:t:t0", "progress") == b'{"current":1,"total":2,"message":""}'
