"""Says how workers look in answers, and in the schema."""

from typing import Any

from rest_framework import serializers
from runqy.api.moments import moment_ns, moment_s

from runqy.broker.worker_records import RunningTask
from workers.queries import WorkerView


def worker_answer(worker: WorkerView) -> dict[str, Any]:
    """Return what the API says about a worker; released clients read the first seven."""
    record = worker.record
    return {
        "worker_id": record.worker_id,
        "started_at": record.started_at_s,
        "last_beat": record.last_beat_s,
        "concurrency": record.concurrency,
        "queues": _as_go_prints(record.redis_queues),
        "status": record.foreign_status or record.state,
        "is_stale": worker.is_stale,
        "state": record.state,
        "reason": record.reason,
        "queue": record.queue,
        "redis_queues": record.redis_queues,
        "processes": record.processes,
        "running": [_running(task) for task in worker.running],
        "last_take_at": moment_s(record.last_take_s),
        "commit": record.commit or None,
        "version": record.version or None,
        "host": record.host,
        "pid": record.pid,
        "is_foreign": record.is_foreign,
    }


def _running(task: RunningTask) -> dict[str, Any]:
    """Return a task that a worker runs."""
    return {
        "task_id": task.task_id,
        "queue": task.redis_queue,
        "started_at": moment_ns(task.started_ns),
        "deadline": moment_s(task.deadline_s or None),
    }


def _as_go_prints(queues: dict[str, int]) -> str:
    """Return queues and their priorities as released clients know them: `map[a:1 b:2]`."""
    return f"map[{' '.join(f'{name}:{priority}' for name, priority in sorted(queues.items()))}]"


class RunningOutput(serializers.Serializer[RunningTask]):
    """A task that a worker runs."""

    task_id = serializers.CharField()
    queue = serializers.CharField(help_text="The Redis queue")
    started_at = serializers.DateTimeField()
    deadline = serializers.DateTimeField(allow_null=True)


class WorkerOutput(serializers.Serializer[WorkerView]):
    """A worker; `worker_answer` makes it."""

    worker_id = serializers.CharField()
    started_at = serializers.IntegerField(help_text="Unix seconds")
    last_beat = serializers.IntegerField(help_text="Unix seconds")
    concurrency = serializers.IntegerField(help_text="How many tasks it holds at once")
    queues = serializers.CharField(help_text="Redis queues and priorities: `map[inference_high:10]`")
    status = serializers.CharField(help_text="As the worker spells it")
    is_stale = serializers.BooleanField(help_text="Its beats are overdue")
    state = serializers.ChoiceField(
        choices=["starting", "deploying", "ready", "start_failed", "draining", "disconnected"]
    )
    reason = serializers.CharField(allow_blank=True, help_text="Why it is in this state, when it is not `ready`")
    queue = serializers.CharField(allow_blank=True, help_text="The queue that it registered for")
    redis_queues = serializers.DictField(child=serializers.IntegerField(), help_text="With their priorities")
    processes = serializers.IntegerField(help_text="Over how many children it spreads its tasks")
    running = RunningOutput(many=True)
    last_take_at = serializers.DateTimeField(allow_null=True, help_text="When it took a task last")
    commit = serializers.CharField(allow_null=True, help_text="What it runs")
    version = serializers.CharField(allow_null=True)
    host = serializers.CharField(allow_blank=True)
    pid = serializers.IntegerField()
    is_foreign = serializers.BooleanField(help_text="True of Go's runqy-worker, which reports less")


class WorkerList(serializers.Serializer[object]):
    """All workers, in order of their ids."""

    workers = WorkerOutput(many=True)
    count = serializers.IntegerField()
