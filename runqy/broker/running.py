"""Reads what workers run at this moment, from what their heartbeats leave for asynq's tools."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from runqy.broker import keys
from runqy.broker.asynq_pb2 import WorkerInfo
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.scripts import command
from runqy.broker.worker_records import RunningTask, WorkerRecord


def find_running(records: Sequence[WorkerRecord]) -> Request[list[list[RunningTask]]]:
    """Return for each worker the tasks that it runs, the oldest first; Go's runqy-worker tells none."""
    infos = [keys.workers(record.host, record.pid, record.server_id) for record in records]

    def parse(replies: Sequence[Reply]) -> list[list[RunningTask]]:
        return [_running((reply or ())[1::2]) for reply in replies]

    return Request(tuple(command("HGETALL", key, key=key) for key in infos), parse, tolerates_wrong_types=True)


def _running(infos: Sequence[bytes]) -> list[RunningTask]:
    """Read what can be read of a worker's tasks."""
    tasks = [task for info in infos if (task := _read(info))]
    return sorted(tasks, key=lambda task: (task.started_ns, task.task_id))


def _read(info: bytes) -> RunningTask | None:
    """Read one task; None for what is no WorkerInfo, or names no task."""
    try:
        found = WorkerInfo.FromString(info)
    except DecodeError:
        return None
    if not found.task_id:
        return None
    return RunningTask(
        task_id=found.task_id,
        redis_queue=found.queue,
        task_type=found.task_type,
        payload=found.task_payload,
        started_ns=found.start_time.seconds * 1_000_000_000 + found.start_time.nanos,
        deadline_s=found.deadline.seconds,
    )
