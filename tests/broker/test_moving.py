"""Moving tasks to another Redis queue: all that belongs to a task goes along, and no crash loses or doubles one."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from runqy.broker import keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.maintenance.orphans import Suspect, restore_orphan
from runqy.broker.maintenance.pending_timeouts import PendingTask
from runqy.broker.queues import moving
from runqy.broker.queues.move_claims import count_claims
from runqy.broker.queues.moving import finish_claims, move_tasks
from runqy.broker.queues.pausing import find_pause, pause
from runqy.broker.queues.renaming import close_moved_queue, move_pause
from runqy.broker.queues.stats import read_queue_names
from runqy.broker.scripts import Command
from runqy.broker.states import TaskState
from runqy.broker.streams.run_counters import RunCounters, add_run_counters, read_run_counters
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.enqueue import enqueue_unique
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.inspector import ActionOutcome, delete_tasks
from runqy.broker.tasks.output import OutputChunk, write_output
from runqy.broker.tasks.reader import find_task
from runqy.errors import TaskNotCancelable
from tests.support.maintenance_duties import MovingClock
from tests.support.tasks import counters, fields, ids, listed, message, new_task, put, take
from tests.support.waiting import wait_until

S, D = "mail", "mail.default"
OLD, NEW = QueueKeys(S), QueueKeys(D)


def move(broker: Broker, limit: int = 10_000) -> int:
    return move_tasks(broker, S, D, limit=limit)


def lookup(broker: Broker, task_id: str) -> bytes | None:
    return broker.client.hget(keys.lookup(task_id), "queue")


def fill(broker: Broker) -> None:
    """Put tasks of every state but active into the old queue, oldest first; `locked` has a lock."""
    put(broker, "done", "dead", "again", queue=S, retention_s=3600)
    done, dead, again = take(broker, 3, S)
    broker.run(complete(done.lease, done.message, b'{"x": 1}', now_ns=broker.now_ns()))
    broker.run(archive(dead.lease, dead.message, error="boom", now_ns=broker.now_ns()))
    failure = Failure(error="boom", retry_at_s=broker.now_s() + 50)
    broker.run(retry(again.lease, again.message, failure, now_ns=broker.now_ns()))
    put(broker, "later", queue=S, process_at_s=broker.now_s() + 60)
    put(broker, "p1", "p2", "p3", queue=S)
    locked = new_task("locked", S, unique_key="k", unique_for_s=500)
    broker.run(enqueue_unique(locked, now_ns=broker.now_ns(), is_cluster=broker.is_cluster))
    broker.client.delete(QueueKeys(S).runs)  # as the history does once it has recorded them


ALL = {"done", "dead", "again", "later", "p1", "p2", "p3", "locked"}
MOVED = {
    "pending": ["p1", "p2", "p3", "locked"],
    "scheduled": ["later"],
    "retry": ["again"],
    "archived": ["dead"],
    "completed": ["done"],
}


def test_tasks_of_every_state_are_moved_with_their_order_scores_and_results(broker: Broker) -> None:
    fill(broker)
    scores = {
        state: broker.client.zrange(OLD.prefix + state, 0, -1, withscores=True) for state in MOVED if state != "pending"
    }
    before = {task_id: fields(broker, task_id, S) for task_id in ALL}

    assert move(broker) == len(ALL)

    assert listed(broker, S) == {}
    assert listed(broker, D) == MOVED
    assert {state: broker.client.zrange(NEW.prefix + state, 0, -1, withscores=True) for state in scores} == scores
    for task_id in ALL - {"locked"}:
        assert fields(broker, task_id, D) == before[task_id]
        assert not broker.client.exists(OLD.task(task_id))


def test_the_message_and_the_index_entry_name_the_new_queue(broker: Broker) -> None:
    fill(broker)
    before = message(broker, "again", S)

    move(broker)

    after = message(broker, "again", D)
    assert (after.queue, after.type, after.id) == (D, D, "again")
    before.queue = before.type = D
    assert after == before
    assert {lookup(broker, task_id) for task_id in ALL} == {D.encode()}
    assert broker.run(find_task("p1")).queue == D
    assert D in broker.run(read_queue_names())


def test_a_lock_is_moved_with_its_task_and_keeps_its_time_to_live(broker: Broker) -> None:
    fill(broker)

    move(broker)

    lock = NEW.lock("k")
    assert broker.client.get(lock) == b"locked"
    assert 400_000 < broker.client.pttl(lock) <= 500_000
    assert fields(broker, "locked", D)["unique_key"].decode() == message(broker, "locked", D).unique_key == lock
    assert not broker.client.exists(OLD.lock("k"))


def test_a_task_of_the_go_programs_keeps_its_type_its_lock_by_payload_and_its_expiry(broker: Broker) -> None:
    lock = f"{OLD.lock_prefix}email:send:cfeb4906248f18cb94f202711c2a34cf"
    msg = TaskMessage(type="email:send", id="g", queue=S, payload=b"\x00\xff", unique_key=lock, timeout=60)
    raw = msg.SerializeToString() + b"\xfa\x01\x03new"  # a field 31 that this release does not know
    broker.client.hset(OLD.task("g"), mapping={"msg": raw, "state": "completed", "unique_key": lock, "retried": 2})
    broker.client.expire(OLD.task("g"), 100)
    broker.client.zadd(OLD.completed, {"g": 4_000_000_000})
    broker.client.set(lock, "g")

    move(broker)

    stored = broker.client.hget(NEW.task("g"), "msg")
    after = TaskMessage.FromString(stored)
    assert (after.type, after.queue, after.payload, after.timeout) == ("email:send", D, b"\x00\xff", 60)
    assert b"\xfa\x01\x03new" in stored
    assert after.unique_key == f"{NEW.lock_prefix}email:send:cfeb4906248f18cb94f202711c2a34cf"
    assert (broker.client.get(after.unique_key), broker.client.ttl(after.unique_key)) == (b"g", -1)
    assert 0 < broker.client.ttl(NEW.task("g")) <= 100
    assert fields(broker, "g", D)["retried"] == b"2"


def test_the_output_of_a_task_is_moved_with_it(broker: Broker) -> None:
    put(broker, "a", queue=S)
    (taken,) = take(broker, 1, S)
    broker.run(write_output([OutputChunk(lease=taken.lease, text=b"hello")]))
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))
    before, ttl = broker.client.hgetall(OLD.output("a")), broker.client.ttl(OLD.output("a"))

    move(broker)

    assert b"hello" in before.values()
    assert broker.client.hgetall(NEW.output("a")) == before
    assert ttl - 60 <= broker.client.ttl(NEW.output("a")) <= ttl
    assert not broker.client.exists(OLD.output("a"))


def test_tasks_that_wait_in_a_group_are_moved_with_it(broker: Broker) -> None:
    msg = TaskMessage(type=S, id="g", queue=S, group_key="team").SerializeToString()
    broker.client.hset(OLD.task("g"), mapping={"msg": msg, "state": "aggregating", "group": "team"})
    broker.client.zadd(OLD.group("team"), {"g": 5})
    broker.client.sadd(OLD.groups, "team")

    move(broker)

    assert broker.client.zrange(NEW.group("team"), 0, -1, withscores=True) == [(b"g", 5)]
    assert broker.client.smembers(NEW.groups) == {b"team"}


def test_an_active_task_finishes_where_it_is_and_is_moved_then(broker: Broker) -> None:
    put(broker, "running", queue=S)
    (taken,) = take(broker, 1, S)

    assert move(broker) == 0
    assert listed(broker, S) == {"active": ["running"], "lease": ["running"]}
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))
    move(broker)

    assert listed(broker, D) == {"completed": ["running"]}


def test_moved_tasks_run_before_younger_ones_and_workers_are_woken(broker: Broker) -> None:
    put(broker, "old1", "old2", queue=S)
    put(broker, "young", queue=D)
    move(broker)

    assert ids(take(broker, 3, D)) == ["old1", "old2", "young"]


def test_a_move_is_bounded_and_goes_on_in_the_right_order(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "BATCH_MAX_TASKS", 2)
    put(broker, *map(str, range(7)), queue=S)

    assert move(broker, limit=3) == 4
    assert ids(take(broker, 3, S)) == ["0", "1", "2"]
    move(broker)

    assert listed(broker, D)["pending"] == ["3", "4", "5", "6"]


def test_a_task_whose_id_exists_in_the_destination_stays_and_does_not_hold_up_others(broker: Broker) -> None:
    put(broker, "same", queue=D, payload=b"theirs")
    put(broker, "a", "same", "b", queue=S)

    move(broker)

    assert message(broker, "same", D).payload == b"theirs"
    assert listed(broker, S) == {"pending": ["same"]}
    assert "moving" not in fields(broker, "same", S)
    assert listed(broker, D) == {"pending": ["a", "b", "same"]}


def test_tasks_whose_ids_exist_in_the_destination_do_not_hold_up_later_ones_of_a_sorted_set(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "BATCH_MAX_TASKS", 2)
    same, free = ["s1", "s2", "s3"], ["a", "b", "c"]
    put(broker, *same, queue=D)
    for number, task_id in enumerate([*same, *free]):
        put(broker, task_id, queue=S, process_at_s=broker.now_s() + 1000 + number)

    moved = [move(broker) for _ in range(4)]

    assert sum(moved) == len(free)
    assert listed(broker, D)["scheduled"] == free
    assert listed(broker, S) == {"scheduled": same}
    broker.client.delete(NEW.pending, *map(NEW.task, same))
    assert sum(move(broker) for _ in range(3)) == len(same)
    assert leftovers(broker) == []


def test_an_id_without_a_task_vanishes_from_its_index(broker: Broker) -> None:
    put(broker, "a", queue=S)
    broker.client.lpush(OLD.pending, "ghost")

    assert move(broker) == 1
    assert (listed(broker, S), listed(broker, D)) == ({}, {"pending": ["a"]})


def test_a_claimed_task_is_neither_cancelled_deleted_nor_restored(broker: Broker) -> None:
    put(broker, "a", queue=S)
    move_until(broker, "claim_for_move")

    with pytest.raises(TaskNotCancelable, match="being moved"):
        broker.run(cancel(S, "a", now_ns=broker.now_ns()))
    assert broker.run(delete_tasks(S, ["a"])) == [ActionOutcome.WRONG_STATE]
    since = fields(broker, "a", S)["pending_since"].decode()
    assert not broker.run(restore_orphan(Suspect(S, PendingTask("a", since)), now_ns=broker.now_ns()))
    assert broker.run(count_claims([S, D])) == {S: 1}
    assert finish_claims(broker, S) == 1
    assert listed(broker, D) == {"pending": ["a"]}


def test_a_task_that_ran_and_was_deleted_before_its_claim_was_finished_is_not_stored_again(broker: Broker) -> None:
    put(broker, "a", queue=S, retention_s=0)
    move_until(broker, "store_moved")
    (taken,) = take(broker, 1, D)
    broker.run(complete(taken.lease, taken.message, now_ns=broker.now_ns()))

    finish_claims(broker, S)

    assert (listed(broker, S), listed(broker, D)) == ({}, {})
    assert not broker.client.exists(NEW.task("a"))
    assert not broker.client.exists(OLD.task("a"))


def test_a_process_that_was_stopped_for_long_stores_nothing(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    put(broker, "a", queue=S)
    MovingClock(monkeypatch).advance(-moving.STEP_TIMEOUT_S - 2)

    assert move(broker) == 0

    assert listed(broker, D) == {}
    monkeypatch.undo()
    assert move(broker) == 1


class Crash(BaseException):
    """The process was killed."""


class CrashingConnection:
    """Sends some commands and then ends the process: after a number of them, or after a script that did something."""

    def __init__(self, connection: Any, *, commands: int = 10**9, script: str = "") -> None:
        self._connection = connection
        self._left, self._script = commands, script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, commands: Sequence[Command]) -> Any:
        if len(commands) >= self._left:
            if self._left:
                self._connection.execute(commands[: self._left])
            raise Crash
        self._left -= len(commands)
        replies = self._connection.execute(commands)
        for command, reply in zip(commands, replies, strict=True):
            if command.script and command.script.name == self._script and reply:
                raise Crash
        return replies


def move_until(broker: Broker, script: str) -> None:
    """Begin a move whose process is killed after a script."""
    whole, broker.connection = broker.connection, CrashingConnection(broker.connection, script=script)
    with pytest.raises(Crash):
        move(broker)
    broker.connection = whole


def test_a_crash_between_any_two_commands_loses_and_doubles_nothing(broker: Broker) -> None:
    whole, survived = broker.connection, 0
    for commands in range(200):
        broker.client.flushall(**({"target_nodes": "primaries"} if broker.is_cluster else {}))
        fill(broker)
        broker.run(pause(S, now_ns=broker.now_ns(), by="ann"))
        broker.run(add_run_counters(S, RunCounters(requeued=7, dropped=2)))
        before, counted = counters(broker, S), broker.run(read_run_counters([S]))
        broker.connection = CrashingConnection(whole, commands=commands)
        try:
            rename(broker)
        except Crash:
            survived += 1
        broker.connection = whole
        rename(broker)

        assert listed(broker, D) == MOVED, commands
        assert listed(broker, S) == {}, commands
        assert {lookup(broker, task_id) for task_id in ALL} == {D.encode()}, commands
        assert counters(broker, D) == before, commands
        assert broker.run(read_run_counters([D])) == counted, commands
        assert broker.client.get(NEW.lock("k")) == b"locked", commands
        found = broker.run(find_pause(D))
        assert found is not None, commands
        assert found.by == "ann", commands
        assert broker.run(read_queue_names()) == [D], commands
        assert leftovers(broker) == [], commands
        if survived <= commands:
            return
    pytest.fail("the move never ran to its end")


def rename(broker: Broker) -> None:
    """Move everything, as maintenance does for a queue that has another name now."""
    broker.run(move_pause(S, D))
    move(broker)
    broker.run(close_moved_queue(S, D))


def test_the_counters_of_runs_are_added_to_those_of_the_new_name(broker: Broker) -> None:
    broker.run(add_run_counters(S, RunCounters(requeued=7, child_restarts=1)))
    broker.client.hset(OLD.run_counters, "completed", "forged")
    broker.run(add_run_counters(D, RunCounters(requeued=3)))

    rename(broker)

    assert broker.run(read_run_counters([S, D])) == [RunCounters(), RunCounters(requeued=10, child_restarts=1)]
    assert leftovers(broker) == []


def leftovers(broker: Broker) -> list[bytes]:
    """Return what is left of the old queue."""
    return [key for prefix in OLD.prefixes for key in broker.client.scan_iter(f"{prefix}*")]


def test_two_processes_that_move_the_same_queue_store_each_task_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "BATCH_MAX_TASKS", 3)
    put(broker, *map(str, range(12)), queue=S)
    run = broker.run

    def run_with_another(work: Any) -> Any:
        outcome = run(work)
        monkeypatch.setattr(broker, "run", run)
        move_tasks(broker, S, D, limit=3)
        monkeypatch.setattr(broker, "run", run_with_another)
        return outcome

    monkeypatch.setattr(broker, "run", run_with_another)
    move(broker)
    monkeypatch.setattr(broker, "run", run)

    assert listed(broker, D)["pending"] == list(map(str, range(12)))
    assert listed(broker, S) == {}


def test_tasks_that_several_processes_claimed_are_stored_in_their_order(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "BATCH_MAX_TASKS", 3)
    put(broker, *map(str, range(12)), queue=S)
    for token in "bca":  # of processes that were killed before they stored anything
        broker.run(moving._claim(S, TaskState.PENDING, OLD.pending.encode(), token=token, destination=D))  # noqa: SLF001 (no other way to stop a process there)

    move(broker)

    assert listed(broker, D)["pending"] == list(map(str, range(12)))
    assert listed(broker, S) == {}


_MOVER = """
import sys
from runqy.broker.broker import Broker
from runqy.broker.connection.redis_client import RedisTarget
from runqy.broker.queues import moving
moving.BATCH_MAX_TASKS = 20
target = RedisTarget(mode="cluster", addresses=tuple(("127.0.0.1", int(port)) for port in sys.argv[1:]))
print("ready", flush=True)
broker, moved = Broker.connect(target), 0
while count := moving.move_tasks(broker, "mail", "mail.default", limit=20):
    moved += count
    if moved >= 240:
        sys.stdin.read()  # it is killed here at the latest
"""


@pytest.mark.cluster
def test_killed_processes_lose_and_double_nothing(cluster_broker: Broker) -> None:
    broker, count, kills = cluster_broker, 500, 0
    put(broker, *map(str, range(count)), queue=S)
    ports = [str(node.port) for node in broker.client.get_primaries()]

    while broker.client.llen(OLD.pending) or broker.run(count_claims([S])):
        moved = broker.client.llen(NEW.pending)
        with subprocess.Popen(
            [sys.executable, "-c", _MOVER, *ports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as mover:
            assert mover.stdout is not None
            assert mover.stdout.readline() == b"ready\n"
            wait_until(lambda: mover.poll() is not None or broker.client.llen(NEW.pending) > moved + 190)  # noqa: B023
            if mover.poll() is None:
                os.killpg(mover.pid, signal.SIGKILL)
                kills += 1

    assert kills >= 2
    assert listed(broker, D) == {"pending": [str(number) for number in range(count)]}
    assert listed(broker, S) == {}
