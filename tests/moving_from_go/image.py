"""A Redis as the Go programs leave it, written key by key: asynq's layout and what runqy-worker does differently.

The queue `lr` has no sub-queues, `ai` has `high` and `low`, and `lost` is one that no definition names.
"""

import hashlib
import json
from dataclasses import dataclass, field

import redis as redis_py

from runqy.broker.asynq_pb2 import TaskMessage

PLAIN, HIGH, LOW, LOST = "lr.default", "ai.high", "ai.low", "lost.default"
PAYLOAD = {"value": 7}


@dataclass(slots=True)
class Image:
    """Writes tasks, and keeps their ids by state."""

    redis: redis_py.Redis
    now_s: int
    ids: dict[str, list[str]] = field(default_factory=dict)

    def task(self, queue: str, task_id: str, state: str, **changes: object) -> None:
        """Write a task's hash and its index entry; the caller lists the id in the index of its state."""
        fields = changes.pop("fields", {})
        message = TaskMessage(
            type=queue, queue=queue, id=task_id, payload=json.dumps(PAYLOAD).encode(), retry=3, timeout=60
        )
        message.retention = 3600
        for name, value in changes.items():
            setattr(message, name, value)
        stored = {"msg": message.SerializeToString(), "state": state, **fields}  # type: ignore[dict-item]
        self.redis.hset(f"asynq:{{{queue}}}:t:{task_id}", mapping=stored)
        self.redis.hset(f"asynq:t:{task_id}", "queue", queue)
        self.redis.sadd("asynq:queues", queue)
        self.ids.setdefault(state, []).append(task_id)

    def pending(self, queue: str, task_id: str, **changes: object) -> None:
        """Write a pending task as asynq's client does."""
        fields = {"pending_since": self.now_s * 10**9} | changes.pop("fields", {})  # type: ignore[operator]
        self.task(queue, task_id, "pending", fields=fields, **changes)
        self.redis.lpush(f"asynq:{{{queue}}}:pending", task_id)

    def pending_with_lock(self, queue: str, task_id: str) -> str:
        """Write a pending task with asynq's lock of its payload; return the lock."""
        digest = hashlib.md5(json.dumps(PAYLOAD).encode(), usedforsecurity=False).hexdigest()
        lock = f"asynq:{{{queue}}}:unique:{queue}:{digest}"
        self.pending(queue, task_id, unique_key=lock)
        self.redis.hset(f"asynq:{{{queue}}}:t:{task_id}", "unique_key", lock)
        self.redis.set(lock, task_id, ex=600)
        return lock

    def in_set(self, queue: str, task_id: str, state: str, score_s: int, **changes: object) -> None:
        """Write a task that is in a sorted set."""
        self.task(queue, task_id, state, **changes)
        self.redis.zadd(f"asynq:{{{queue}}}:{state}", {task_id: score_s})

    def active(self, queue: str, task_id: str, lease_end_s: int) -> None:
        """Write a task that a server of asynq runs."""
        self.task(queue, task_id, "active")
        self.redis.lpush(f"asynq:{{{queue}}}:active", task_id)
        self.redis.zadd(f"asynq:{{{queue}}}:lease", {task_id: lease_end_s})


def write_image(redis: redis_py.Redis, now_s: int) -> Image:
    """Write tasks in all states, locks, a pause, counters, and the traces of a Go server and worker."""
    image = Image(redis, now_s)
    for queue in (PLAIN, HIGH, LOW, LOST):
        image.pending(queue, f"{queue}-1")
        image.pending(queue, f"{queue}-2")
    image.pending_with_lock(PLAIN, "locked")
    # runqy-worker stores seconds, and the retry count and error of a task beside its message.
    image.pending(PLAIN, "again", fields={"pending_since": now_s, "retried": 1, "error_msg": "boom"})
    image.in_set(PLAIN, "due", "scheduled", now_s - 1)
    image.in_set(PLAIN, "later", "scheduled", now_s + 9000)
    image.in_set(PLAIN, "retry", "retry", now_s - 1, retried=1, error_msg="boom", last_failed_at=now_s - 20)
    image.in_set(PLAIN, "dead", "archived", now_s - 5, retried=3, error_msg="boom", last_failed_at=now_s - 5)
    image.in_set(PLAIN, "done", "completed", now_s + 3000, fields={"result": '{"ok": true}'}, completed_at=now_s - 600)
    redis.expire(f"asynq:{{{PLAIN}}}:t:done", 3000)
    image.active(PLAIN, "abandoned", now_s - 300)
    redis.set(f"asynq:{{{LOW}}}:paused", now_s - 60)
    redis.set(f"asynq:{{{PLAIN}}}:processed", 40)
    redis.set(f"asynq:{{{PLAIN}}}:failed", 4)
    redis.sadd("asynq:queues", "lr")  # the Go server lists a queue without sub-queues a second time
    redis.zadd("asynq:workers", {"vm:17767": now_s})
    beat = {"worker_id": "vm:17767", "started_at": now_s - 900, "last_beat": now_s, "concurrency": 2}
    redis.hset("asynq:workers:vm:17767", mapping=beat | {"queues": f"map[{PLAIN}:5]", "status": "running"})
    redis.expire("asynq:workers:vm:17767", 30)
    return image
