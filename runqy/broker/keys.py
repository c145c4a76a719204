"""Spells every Redis key once, with its type and content. `docs/redis.md` is the prose to it."""

import datetime
import hashlib
from functools import lru_cache

from runqy.broker.states import TaskState

QUEUES = "asynq:queues"  # set: names of all Redis queues; one not in here is invisible to asynq's tools
SERVERS = "asynq:servers"  # zset: server-info keys, score = Unix s of expiry
WORKERS = "asynq:workers"  # zset: workers keys, score = Unix s of expiry; bare ids from Go's runqy-worker
CANCEL_CHANNEL = "asynq:cancel"  # channel: a task id

CONFIG_DOCUMENTS = "runqy:config:{config}:documents"  # hash: "<kind>:<name>" -> signed document
CONFIG_REVISIONS = "runqy:config:{config}:revisions"  # hash: "<kind>:<name>" -> revision
CONFIG_HEAD = "runqy:config:{config}:digest"  # string: signed head; earlier releases kept a bare digest here
KEY_USES = "runqy:config:{config}:key_uses"  # hash: id of an API key -> Unix s of its last use
DELIVERIES = "runqy:config:{config}:deliveries"  # stream: who was handed out secrets, until the database knows
WORKER_CLAIMS = "runqy:config:{config}:worker_claims"  # hash: worker id -> "<Unix s> <whose key registered it>"
REDIS_USERS = "runqy:config:{config}:redis_users"  # hash: "<Redis user>/<worker id>" -> signed registration
QUEUE_REVISIONS = "runqy:revisions"  # hash: queue -> token that changes with its configuration; workers read it
CHANGED_CHANNEL = "runqy:changed"  # channel: name of a queue whose configuration changed
MAINTENANCE = "runqy:config:{config}:maintenance"  # string, expiring: Unix s at which a maintenance process reported
WORKER_RECORDS = "runqy:workers"  # zset: worker ids, score = Unix s of expiry


def lookup(task_id: str) -> str:
    """Hash with the field `queue`: the Redis queue that task is in."""
    return f"asynq:t:{task_id}"


def server_info(host: str, pid: int, server_id: str) -> str:
    """String: ServerInfo message, expiring."""
    return f"asynq:servers:{{{host}:{pid}:{server_id}}}"


def workers(host: str, pid: int, server_id: str) -> str:
    """Hash: id of a running task -> WorkerInfo message, expiring."""
    return f"asynq:workers:{{{host}:{pid}:{server_id}}}"


def go_worker(worker_id: str) -> str:
    """Hash that Go's runqy-worker keeps about itself, expiring."""
    return f"asynq:workers:{worker_id}"


def worker_record(worker_id: str) -> str:
    """String, expiring: JSON of what the workers API shows beyond asynq's ServerInfo; Unix s once it deregistered."""
    return f"runqy:worker:{worker_id}"


def probe(slot_tag: int) -> str:
    """String, expiring: written to see whether a node of Redis takes writes."""
    return f"runqy:probe:{{{slot_tag}}}"


def rate(subject: str) -> str:
    """String, expiring: Unix us at which all requests of a subject will have come back to it."""
    return f"runqy:rate:{subject}"


def wake_channel(token: str) -> str:
    """Channel: tells one idle worker the Redis queue that has work for it."""
    return f"runqy:wake:{token}"


def instance_patterns(instance_id: str) -> tuple[str, str]:
    """Match `server_info` and `workers` of all server ids that begin with an instance's id and a hyphen."""
    return f"{SERVERS}:{{*:{instance_id}-*}}", f"{WORKERS}:{{*:{instance_id}-*}}"


def ended_channel(task_id: str) -> str:
    """Channel: tells waiting readers the final state of a task."""
    return f"runqy:ended:{task_id}"


def counter_day(now_s: int) -> str:
    """Return the UTC date as the keys of counters spell it."""
    return _spelled_day(now_s // 86_400)


@lru_cache(maxsize=4)
def _spelled_day(day: int) -> str:
    """Return a number of days since 1970 as YYYY-MM-DD."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


AROUND_QUEUE = ("asynq:{", "}:")
"""What stands on either side of a Redis queue's name in its keys, for scripts that find the name inside Redis."""


class QueueKeys:
    """The keys of one Redis queue; all share the hash tag `{queue}`, and so a slot."""

    __slots__ = ("_prefix", "queue")

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self._prefix = queue.join(AROUND_QUEUE)

    def task(self, task_id: str) -> str:
        """Hash: msg, state, pending_since, unique_key, group, result, and our own fields."""
        return f"{self._prefix}t:{task_id}"

    @property
    def prefix(self) -> str:
        """What every key of this queue that asynq knows starts with."""
        return self._prefix

    @property
    def prefixes(self) -> tuple[str, str]:
        """What every key of this queue starts with, asynq's and ours."""
        return self._prefix, f"runqy:q:{{{self.queue}}}:"

    @property
    def task_prefix(self) -> str:
        """What stands before the id in the key of a task, for scripts that meet ids inside Redis."""
        return f"{self._prefix}t:"

    @property
    def pending(self) -> str:
        """List: ids, pushed left, taken right."""
        return f"{self._prefix}pending"

    @property
    def active(self) -> str:
        """List: ids of running tasks."""
        return f"{self._prefix}active"

    @property
    def lease(self) -> str:
        """Zset: ids of running tasks, score = Unix s at which the lease ends."""
        return f"{self._prefix}lease"

    @property
    def scheduled(self) -> str:
        """Zset: score = Unix s at which to run."""
        return f"{self._prefix}scheduled"

    @property
    def retry(self) -> str:
        """Zset: score = Unix s of the next try."""
        return f"{self._prefix}retry"

    @property
    def archived(self) -> str:
        """Zset: score = Unix s at which it was archived."""
        return f"{self._prefix}archived"

    @property
    def completed(self) -> str:
        """Zset: score = Unix s at which it expires."""
        return f"{self._prefix}completed"

    @property
    def paused(self) -> str:
        """String: its existence pauses the queue; value = Unix s of the pause."""
        return f"{self._prefix}paused"

    @property
    def pause_note(self) -> str:
        """Hash: who paused the queue (`by`) and at which Unix s (`since`), which `paused` has to agree with."""
        return f"runqy:q:{{{self.queue}}}:pause"

    @property
    def processed(self) -> str:
        """Integer: all finished attempts."""
        return f"{self._prefix}processed"

    @property
    def failed(self) -> str:
        """Integer: all failed attempts."""
        return f"{self._prefix}failed"

    def processed_on(self, day: str) -> str:
        """Integer, expiring: finished attempts of a UTC day, spelled YYYY-MM-DD."""
        return f"{self._prefix}processed:{day}"

    def failed_on(self, day: str) -> str:
        """Integer, expiring: failed attempts of a UTC day."""
        return f"{self._prefix}failed:{day}"

    @property
    def groups(self) -> str:
        """Set: names of groups that hold tasks."""
        return f"{self._prefix}groups"

    def group(self, name: str) -> str:
        """Zset: ids waiting in a group, score = Unix s when added."""
        return f"{self._prefix}g:{name}"

    @property
    def aggregation_sets(self) -> str:
        """Zset: keys of sets of grouped tasks in asynq's aggregator's hands, score = Unix s at which one is stale."""
        return f"{self._prefix}aggregation_sets"

    def index(self, state: TaskState) -> str:
        """Return the key of the list or zset that holds the ids of tasks in a state."""
        return f"{self._prefix}{state.value}"

    @property
    def lock_prefix(self) -> str:
        """What every uniqueness lock of this queue starts with; a lock is a string: id of the task that owns it."""
        return f"{self._prefix}unique:"

    def lock(self, unique_key: str) -> str:
        """String: id of the task that owns what a client named; spelled as asynq spells the lock of a payload."""
        digest = hashlib.md5(unique_key.encode(), usedforsecurity=False).hexdigest()
        return f"{self.lock_prefix}{self.queue}:{digest}"

    @property
    def idle(self) -> str:
        """Zset: wake-up channels of workers that wait for this queue, score = Unix ms until which they listen."""
        return f"runqy:q:{{{self.queue}}}:idle"

    def deleted_by(self, task_id: str) -> str:
        """String, expiring: owner whose finish deleted a task, so that its repetition is known for one."""
        return f"runqy:q:{{{self.queue}}}:deleted_by:{task_id}"

    def created(self, scope: str) -> str:
        """Hash, expiring: what was created for an idempotency key, in the scope of whoever sent it."""
        return f"runqy:q:{{{self.queue}}}:created:{scope}"
