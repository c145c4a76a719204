"""How a worker sends what its runs stream."""

from collections.abc import Awaitable, Callable

import pytest
import redis as redis_py

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.chunks import GAP, TaskChunks, read_chunks
from runqy.core.environment.connection_urls import RedisTarget
from tests.support import environment, event_loop
from tests.support.full_redis import full_redis
from tests.support.redis_client import redis_of
from tests.support.tasks import put, take
from workers.runtime.output_writer import ChunkWriter, kept_chunks, record_all
from workers.runtime.retries import QueuePolicy
from workers.runtime.task_runs import Run, RunResult, RunStatus, add_streamed_result, read_streamed_results

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


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process keep 2,000 bytes of chunks."""
    monkeypatch.setattr("workers.runtime.output_writer.MAX_KEPT_BYTES", 2_000)


def result_of(broker: Broker, run: Run) -> RunResult:
    """Return the result of a run that returned none."""
    run.result = add_streamed_result(run, RunResult(RunStatus.SUCCEEDED, output=b"null"))
    broker.run(read_streamed_results(broker, [run], QueuePolicy()))
    return run.result


def entries(broker: Broker, task_id: str) -> tuple[bytes, ...]:
    return broker.run(read_chunks("mail", task_id)).entries


def is_stored(run: Run) -> bool:
    return run.stream is not None and run.stream.is_stored


def test_chunks_of_all_runs_are_sent_together(single_broker: Broker) -> None:
    all_runs = runs(single_broker, 20)
    calls_before = redis_of(single_broker).info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)

    async def stream(writer: ChunkWriter, _: AsyncBroker) -> None:
        for run in all_runs:
            assert [writer.add(run, chunk) for chunk in (b"1", b'"b"')] == ["", ""]
        await event_loop.wait_until(lambda: all(map(is_stored, all_runs)))

    with_writer(stream)

    calls = redis_of(single_broker).info("commandstats")["cmdstat_evalsha"]["calls"] - calls_before
    assert calls <= 2  # the first of them loads the script
    assert {entries(single_broker, run.task_id) for run in all_runs} == {(b"1", b'"b"')}


def test_what_redis_lost_is_written_again(single_broker: Broker) -> None:
    (run,) = runs(single_broker, 1)

    async def stream(writer: ChunkWriter, _: AsyncBroker) -> None:
        for chunk in (b"1", b"2", b"3"):
            writer.add(run, chunk)
        await event_loop.wait_until(lambda: is_stored(run))
        redis_of(single_broker).rpop(KEYS.chunks(run.task_id), 2)
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
        record_all(planned, await broker.send_all([write.request for write in planned]))

    with_writer(stream)

    assert all(is_stored(run) and run.stream and not run.stream.unstored_bytes for run in all_runs)
    for run in all_runs:
        found: list[bytes] = []
        while len(found) < 50:
            found += single_broker.run(read_chunks("mail", run.task_id, run=1, offset=len(found))).entries
        assert found == [chunk] * 50


def test_a_gap_is_recorded_after_the_chunks_that_are_stored(single_broker: Broker) -> None:
    (run,) = runs(single_broker, 1)
    seen: list[TaskChunks] = []

    async def stream(writer: ChunkWriter, broker: AsyncBroker) -> None:
        writer.add(run, b"1")
        for write in writer.plan_final([run]):
            await broker.send(write.request)
            seen.append(await broker.send(read_chunks("mail", run.task_id)))

    with_writer(stream)

    assert {(chunks.entries, chunks.end) for chunks in seen} == {((b"1",), 1)}


@pytest.mark.usefixtures("small_memory")
def test_what_redis_has_is_kept_no_longer_once_much_is_kept(single_broker: Broker) -> None:
    first, second = all_runs = runs(single_broker, 2)
    chunks = [b'"%04d%s"' % (number, b"x" * 100) for number in range(50)]

    async def stream(writer: ChunkWriter, _: AsyncBroker) -> None:
        for chunk in chunks:
            for run in all_runs:
                writer.add(run, chunk)
            await event_loop.wait_until(lambda: all(map(is_stored, all_runs)))
        assert sum(run.stream.kept_bytes for run in all_runs if run.stream) <= 1_500
        redis_of(single_broker).rpop(KEYS.chunks(second.task_id), 10)
        writer.add(second, b'"last"')
        await event_loop.wait_until(lambda: is_stored(second))

    with_writer(stream)

    assert entries(single_broker, first.task_id) == tuple(chunks)
    assert result_of(single_broker, first).output == b'"%s"' % b"".join(chunk[1:-1] for chunk in chunks)
    rewritten = entries(single_broker, second.task_id)
    assert (rewritten[:41], rewritten[50:]) == ((*chunks[:40], GAP), (b'"last"',))
    assert result_of(single_broker, second).error.startswith("stream_incomplete: ")


@pytest.mark.usefixtures("small_memory")
def test_chunks_that_a_full_redis_does_not_take_are_dropped_once_much_is_kept(
    single_broker: Broker, redis: redis_py.Redis
) -> None:
    (run,) = runs(single_broker, 1)
    chunks = [b'"%s"' % (b"x" * 500) for _ in range(10)]

    async def stream(writer: ChunkWriter, _: AsyncBroker) -> None:
        writer.add(run, b'"first"')
        await event_loop.wait_until(lambda: is_stored(run))
        with full_redis(redis):
            assert {writer.add(run, chunk) for chunk in chunks} == {""}
            await event_loop.wait_until(lambda: "OOM" in str(redis.info("errorstats")))
        await event_loop.wait_until(lambda: is_stored(run))
        writer.add(run, b'"last"')
        await event_loop.wait_until(lambda: is_stored(run))

    with_writer(stream)

    kept = [chunk for chunk in entries(single_broker, run.task_id) if chunk != GAP]
    assert len(entries(single_broker, run.task_id)) == 12
    assert kept == [b'"first"', *chunks[:3], b'"last"']
    assert result_of(single_broker, run).status is RunStatus.RETRYABLE


def test_the_chunks_of_runs_that_have_ended_take_no_memory(single_broker: Broker) -> None:
    all_runs = runs(single_broker, 3)

    async def stream(writer: ChunkWriter, _: AsyncBroker) -> None:
        before = kept_chunks.size_bytes
        for run in all_runs:
            writer.add(run, b'"a chunk"')
        writer.restart(all_runs[0])
        for run in all_runs[:2]:
            writer.forget(run)
        assert kept_chunks.size_bytes > before
        await writer.close()
        assert kept_chunks.size_bytes == before

    with_writer(stream)
