"""A worker and what it runs, for tests."""

from runqy.broker.workers.records import RunningTask, WorkerRecord, WorkerState

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
