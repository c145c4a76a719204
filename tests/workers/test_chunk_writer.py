"""How a worker sends what its runs stream."""

from collections.abc import Awaitable, Callable

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.connection.redis_client import RedisTarget
from runqy.broker.keys import QueueKeys
from runqy.broker.operation import ask_all
from runqy.broker.tasks.chunks import TaskChunks, read_chunks
from tests.support import environment, event_loop
from tests.support.tasks import put, take
from workers.runtime.background_writes import record_all
from workers.runtime.chunk_writer import ChunkWriter
from workers.runtime.task_runs import Run

TARGET = RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))
KEYS = QueueKeys("mail")


def runs(broker: Broker, count: int) -> list[Run]:
    """Return runs of so many tasks."""
    put(broker, *(f"t{n}" for n in range(count)))
    return [Run(task=task, line=b"") for task in take(broker, count)]


def with_writer(act: Callable[[ChunkWriter, AsyncBroker], Awaitable[None]]) -> None:
    async def main() -> None:
        broker = AsyncBroker.connect(TARGET)
        writer = ChunkWriter(lambda: broker)
        await act(writer, broker)
        await writer.close()
        await broker.close()

    event_loop.run(main())


def entries(broker: Broker, task_id: str) -> tuple[bytes, ...]:
    return broker.run(read_chunks("mail", task_id)).entries


def is_stored(run: Run) -> bool:
    return run.stream is not None and run.stream.is_stored


def test_chunks_of_all_runs_are_sent_together(single_broker: Broker) -> None:
    all_runs = runs(single_broker, 20)
    calls_before = single_broker.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)

    async def stream(writer: ChunkWriter, _: AsyncBroker) -> None:
        for run in all_runs:
            assert [writer.add(run, chunk) for chunk in (b"1", b'"b"')] == ["", ""]
        await event_loop.wait_until(lambda: all(map(is_stored, all_runs)))

    with_writer(stream)

    calls = single_broker.client.info("commandstats")["cmdstat_evalsha"]["calls"] - calls_before
    assert calls <= 2  # the first of them loads the script
    assert {entries(single_broker, run.task_id) for run in all_runs} == {(b"1", b'"b"')}


def test_what_redis_lost_is_written_again(single_broker: Broker) -> None:
    (run,) = runs(single_broker, 1)

    async def stream(writer: ChunkWriter, _: AsyncBroker) -> None:
        for chunk in (b"1", b"2", b"3"):
            writer.add(run, chunk)
        await event_loop.wait_until(lambda: is_stored(run))
        single_broker.client.rpop(KEYS.chunks(run.task_id), 2)
        writer.add(run, b"4")
        await event_loop.wait_until(lambda: is_stored(run))

    with_writer(stream)

    assert entries(single_broker, run.task_id) == (b"1", b"2", b"3", b"4")


def test_a_run_that_begins_again_begins_another_stream(single_broker: Broker) -> None:
    (run,) = runs(single_broker, 1)

    async def stream(writer: ChunkWriter, _: AsyncBroker) -> None:
        writer.add(run, b"1")
        await event_loop.wait_until(lambda: is_stored(run))
        writer.restart(run)
        await event_loop.wait_until(lambda: single_broker.run(read_chunks("mail", run.task_id)) == TaskChunks(run=2))
        assert run.stream is not None
        assert run.stream.join() == b"null"
        writer.add(run, b"2")
        await event_loop.wait_until(lambda: is_stored(run))

    with_writer(stream)

    assert single_broker.run(read_chunks("mail", run.task_id)) == TaskChunks(run=2, entries=(b"2",), end=1)


def test_a_megabyte_at_most_is_sent_at_once_and_the_rest_before_the_result(single_broker: Broker) -> None:
    all_runs = runs(single_broker, 3)
    chunk = b'"%b"' % (b"x" * 60_000)

    async def stream(writer: ChunkWriter, broker: AsyncBroker) -> None:
        for run in all_runs:
            for _ in range(50):
                writer.add(run, chunk)
        await event_loop.wait_until(lambda: any(entries(single_broker, run.task_id) for run in all_runs))
        planned = writer.plan_final(all_runs)
        record_all(planned, await broker.run(ask_all([write.request for write in planned])))

    with_writer(stream)

    assert all(is_stored(run) and run.stream and not run.stream.unstored_bytes for run in all_runs)
    for run in all_runs:
        found: list[bytes] = []
        while len(found) < 50:
            found += single_broker.run(read_chunks("mail", run.task_id, run=1, offset=len(found))).entries
        assert found == [chunk] * 50
