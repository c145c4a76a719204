"""A worker, and the task that it runs, for tests."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import RunningTask, WorkerRecord, WorkerState
from tests.support.redis_client import redis_of
from tests.support.waiting import PATIENCE_S

RECORD = WorkerRecord(
    worker_id="worker/1",
    host="gpu-1",
    pid=7,
    server_id="s1",
    queue="inference",
    redis_queues={"inference_low": 3, "inference_high": 10},
    concurrency=4,
    processes=2,
    state=WorkerState.READY,
    commit="8b1c0de4f00dfeed8b1c0de4f00dfeed8b1c0de4",
    started_at_s=1_700_000_000,
    version="0.1",
)
RUNNING = RunningTask(
    task_id="t/1",
    redis_queue="inference_high",
    task_type="inference_high",
    payload=b'{"x":"in-the-payload"}',
    started_ns=1_700_000_001_000_000_000,
    deadline_s=1_700_000_060,
)


def keep_records(broker: Broker) -> None:
    """Keep the records of workers, which would expire after a minute."""
    for key in redis_of(broker).scan_iter("runqy:worker*", count=1000):
        redis_of(broker).persist(key)


@contextmanager
def heartbeats(broker: Broker, record: WorkerRecord, running: Sequence[RunningTask] = ()) -> Iterator[None]:
    """Send a worker's heartbeats until the end of the block, for another process that checks their age."""
    sent, ended = threading.Event(), threading.Event()

    def beat() -> None:
        while not ended.is_set():
            broker.run(write_heartbeat(record, running, now_ns=broker.now_ns()))
            sent.set()
            ended.wait(0.5)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert sent.wait(PATIENCE_S)
        yield
    finally:
        ended.set()
        thread.join()
