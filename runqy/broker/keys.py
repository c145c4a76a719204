"""Every Redis key, with its type and content, spelled once. docs/reference/redis-keys.md describes them."""

import datetime
import hashlib
from functools import lru_cache

from runqy.broker.states import TaskState

QUEUES = "asynq:queues"  # set: names of all Redis queues; asynq's tools see only these
SERVERS = "asynq:servers"  # zset: server-info keys, score = Unix s of expiry
WORKERS = "asynq:workers"  # zset: workers keys, score = Unix s of expiry; bare ids from Go's runqy-worker
CANCEL_CHANNEL = "asynq:cancel"  # channel: a task id

# `{config}` is a hash tag: the keys are in one cluster slot, so that one script can change several of them.
CONFIG_DOCUMENTS = "runqy:config:{config}:documents"  # hash: "<kind>:<name>" -> signed document
CONFIG_REVISIONS = "runqy:config:{config}:signed_revisions"  # string: signed JSON, "<kind>:<name>" -> revision
KEY_USES = "runqy:config:{config}:key_uses"  # hash: id of an API key -> Unix s of its last use
DELIVERIES = "runqy:config:{config}:deliveries"  # stream: who received secrets, until it is written to the database
AUDIT_STREAM = "runqy:config:{config}:audit"  # stream: signed audit records, until they are in the database
# hash: worker id -> "<Unix s> <owner of the key that registered it>"
WORKER_CLAIMS = "runqy:config:{config}:worker_claims"
REDIS_USERS = "runqy:config:{config}:redis_users"  # hash: "<Redis user>/<worker id>" -> signed registration
# hash: worker process's UUID -> "<owner of the key that registered it> <Unix ns>"
INSTANCES = "runqy:config:{config}:instances"
QUEUE_REVISIONS = "runqy:revisions"  # hash: queue -> number that grows with its configuration; workers read it
# channel: name of a queue whose configuration changed, or of a worker; "cancel <id>" before runqy publishes an id to
# CANCEL_CHANNEL
CHANGED_CHANNEL = "runqy:changed"
DUTIES_CHANNEL = "runqy:duties"  # channel: name of a maintenance duty that has something to do
# string, expiring: Unix s at which a maintenance process reported last
MAINTENANCE = "runqy:config:{config}:maintenance"
# string, expiring: names of Redis queues that hold more than their share of the memory, one a line
OVER_SHARE = "runqy:config:{config}:over_share"
# string, expiring: names of Redis queues that a live worker serves, one a line
SERVED = "runqy:config:{config}:served"
# hash: name of a queue or sub-queue -> its counters of the last minutes, and its workers, for autoscalers
DEMAND = "runqy:config:{config}:demand"
# hash: name of a deleted Redis queue whose stream of ends is left to be read -> name of its queue
UNREAD_ENDS = "runqy:config:{config}:unread_ends"
WEBHOOK_ATTEMPTS = "runqy:config:{config}:webhook_attempts"  # hash: outcome -> number of attempts to send webhooks
WORKER_RECORDS = "runqy:workers"  # zset: worker ids, score = Unix s of expiry


def lookup(task_id: str) -> str:
    """Hash with the field `queue`: the Redis queue of the task."""
    return f"asynq:t:{task_id}"


def server_info(host: str, pid: int, server_id: str) -> str:
    """String: ServerInfo message, expiring."""
    return asynq_server(f"{host}:{pid}:{server_id}")


def asynq_server(identity: str) -> str:
    """Return the same key as `server_info`, given host, pid and server id joined with colons."""
    return f"{SERVERS}:{{{identity}}}"


def asynq_server_id(key: str) -> str:
    """Return host, pid and server id from such a key. For other keys the result means nothing."""
    return key.removeprefix(f"{SERVERS}:{{").removesuffix("}")


def workers(host: str, pid: int, server_id: str) -> str:
    """Hash: id of a running task -> WorkerInfo message, expiring."""
    return f"asynq:workers:{{{host}:{pid}:{server_id}}}"


def go_worker(worker_id: str) -> str:
    """Hash that Go's runqy-worker writes about itself, expiring."""
    return f"asynq:workers:{worker_id}"


def worker_record(worker_id: str) -> str:
    """String, expiring: JSON of the workers API's data beyond ServerInfo; Unix s after deregistration."""
    return f"runqy:worker:{worker_id}"


WORKER_REQUESTS = "runqy:worker_requests:"


def worker_requests(worker_id: str) -> str:
    """Hash, expiring: what a worker was asked to do (`drain`, `restart`, `stop`) -> id of the request. Workers read it
    with their heartbeats, and cannot write it.
    """
    return f"{WORKER_REQUESTS}{worker_id}"


def probe(slot_tag: int) -> str:
    """String, expiring: written to check that a node of Redis accepts writes."""
    return f"runqy:probe:{{{slot_tag}}}"


def rate(subject: str) -> str:
    """String, expiring: Unix us at which a subject's full allowance is restored."""
    return f"runqy:rate:{subject}"


def wake_channel(token: str) -> str:
    """Channel: notifies one idle worker of the Redis queue that has a task."""
    return f"runqy:wake:{token}"


def cancel_channel(instance_id: str) -> str:
    """Channel: notifies a worker process of a run to cancel, by lease token, Redis queue and task id."""
    return wake_channel(f"{instance_id}:cancel")


def instance_patterns(instance_id: str) -> tuple[str, str]:
    """Return ACL patterns for the `server_info` and `workers` keys of one worker process: server ids that begin with
    its instance id.
    """
    return f"{SERVERS}:{{*:{instance_id}-*}}", f"{WORKERS}:{{*:{instance_id}-*}}"


def ended_channel(task_id: str) -> str:
    """Channel: notifies waiting clients of the final state of a task, and of new chunks."""
    return f"runqy:ended:{task_id}"


def counter_day(now_s: int) -> str:
    """Return the UTC date as it stands in the keys of counters: YYYY-MM-DD."""
    return _format_day(now_s // 86_400)


@lru_cache(maxsize=4)
def _format_day(day: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


QUEUE_PREFIX_PARTS = ("asynq:{", "}:")
"""The parts before and after a Redis queue's name in its keys, for scripts that extract the name."""


class QueueKeys:
    """The keys of one Redis queue; all share the hash tag `{queue}` and therefore a slot."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        # The prefixes of all keys that asynq knows, and of runqy's own. Workers of the queue may use both.
        self.prefix = prefix = queue.join(QUEUE_PREFIX_PARTS)
        self.own_prefix = own = f"runqy:q:{{{queue}}}:"
        self.worker_prefixes = prefix, own
        # The prefix before the id in the key of a task, for scripts that read ids from Redis.
        self.task_prefix = f"{prefix}t:"
        # The prefix of all uniqueness locks; a lock is a string: id of the task that holds it.
        self.lock_prefix = f"{prefix}unique:"
        self.pending = f"{prefix}pending"  # list: ids, pushed left, popped right
        self.active = f"{prefix}active"  # list: ids of running tasks
        self.lease = f"{prefix}lease"  # zset: ids of running tasks, score = Unix s at which the lease ends
        self.scheduled = f"{prefix}scheduled"  # zset: score = Unix s at which to run
        self.retry = f"{prefix}retry"  # zset: score = Unix s of the next attempt
        self.archived = f"{prefix}archived"  # zset: score = Unix s at which it expires
        self.completed = f"{prefix}completed"  # zset: score = Unix s at which it expires
        self.paused = f"{prefix}paused"  # string: its existence pauses the queue; value = Unix s of the pause
        # set: ids of tasks whose cancellation was requested while a worker of another program ran them
        self.cancellations = f"{own}cancellations"
        # hash: who paused the queue (`by`), and when in Unix s (`since`); counts only while `since` equals `paused`
        self.pause_details = f"{own}pause"
        self.processed = f"{prefix}processed"  # integer: all finished attempts
        self.failed = f"{prefix}failed"  # integer: all failed attempts
        self.groups = f"{prefix}groups"  # set: names of groups that hold tasks
        # zset: keys of task sets held by asynq's aggregator, score = Unix s at which a set becomes stale
        self.aggregation_sets = f"{prefix}aggregation_sets"
        self.runs = f"{own}runs"  # stream: ended attempts that are not in the database yet
        # stream: ends of tasks that are told to others, until the database has them; never trimmed
        self.ends = f"{own}ends"  # `lua/parts/append_end.lua` and `are_ends_full.lua` have this key too
        # string, expiring: size in bytes of the largest result that is still stored; exists while the queue exceeds its
        # share of the memory
        self.max_result = f"{own}max_result"
        # zset: wake-up channels of workers that wait for this queue, score = Unix ms until which they are valid
        self.idle = f"{own}idle"
        # hash: outcomes and times of all runs, which workers add to with their heartbeats
        self.run_counters = f"{own}run_counters"

    @staticmethod
    @lru_cache(maxsize=4096)
    def of(queue: str) -> "QueueKeys":
        """Return the keys of a queue, for what is done with each task: building all of them takes two microseconds."""
        return QueueKeys(queue)

    def task(self, task_id: str) -> str:
        """Hash: msg, state, pending_since, unique_key, group, result, and runqy's own fields."""
        return f"{self.task_prefix}{task_id}"

    def processed_on(self, day: str) -> str:
        """Integer, expiring: finished attempts of a UTC day, spelled YYYY-MM-DD."""
        return f"{self.prefix}processed:{day}"

    def failed_on(self, day: str) -> str:
        """Integer, expiring: failed attempts of a UTC day."""
        return f"{self.prefix}failed:{day}"

    def group(self, name: str) -> str:
        """Zset: ids waiting in a group, score = Unix s when added."""
        return f"{self.prefix}g:{name}"

    def index(self, state: TaskState) -> str:
        return f"{self.prefix}{state.value}"

    def lock(self, unique_key: str) -> str:
        """String: id of the task that holds a client's unique key; spelled like asynq's lock of a payload."""
        digest = hashlib.md5(unique_key.encode(), usedforsecurity=False).hexdigest()
        return f"{self.lock_prefix}{self.queue}:{digest}"

    def deleted_by(self, task_id: str) -> str:
        """String, expiring: the lease token that deleted a task, and when that was enqueued. A repeated request is
        recognised by it.
        """
        return f"{self.own_prefix}deleted_by:{task_id}"

    def output(self, task_id: str) -> str:
        """Hash, expiring: what the last attempts of a task printed. `lua/parts/delete_task.lua` has this key too."""
        return f"{self.own_prefix}output:{task_id}"

    def chunks(self, task_id: str) -> str:
        """List, expiring: what the last run of a task streamed. `lua/parts/delete_task.lua` has this key too."""
        return f"{self.own_prefix}chunks:{task_id}"

    def created(self, scope: str) -> str:
        """Hash, expiring: what the request with an idempotency key created; `scope` is the digest of key and client."""
        return f"{self.own_prefix}created:{scope}"
