"""Moving tasks where other programs wrote keys of the wrong type, invalid claims and odd ids, or interfere."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues import move_claims, moving
from runqy.broker.queues.move_claims import count_claims
from runqy.broker.queues.moving import finish_claims, move_tasks
from runqy.broker.scripts import Command
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import enqueue_unique
from runqy.broker.tasks.finish import complete
from runqy.broker.tasks.inspector import ActionOutcome, run_tasks
from runqy.broker.tasks.output import OutputChunk, write_output
from runqy.broker.tasks.reader import find_task
from runqy.errors import BrokerUnavailable
from tests.support.tasks import fields, listed, message, new_task, put, take

S, D = "mail", "mail.default"
OLD, NEW = QueueKeys(S), QueueKeys(D)


class Crash(BaseException):
    """The process was killed."""


class ObservedConnection:
    """Calls a function before the commands that run a script, and another with their replies."""

    def __init__(
        self,
        connection: Any,
        script: str,
        *,
        before: Callable[[], None] = lambda: None,
        replace: Callable[[Any], Any] = lambda reply: reply,
    ) -> None:
        self._connection = connection
        self._script, self._before, self._replace = script, before, replace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, commands: Sequence[Command]) -> list[Any]:
        is_observed = [command.script is not None and command.script.name == self._script for command in commands]
        if any(is_observed):
            self._before()
        replies = self._connection.execute(commands)
        return [
            self._replace(reply) if observed else reply for reply, observed in zip(replies, is_observed, strict=True)
        ]


def move(broker: Broker) -> int:
    return move_tasks(broker, S, D, limit=10_000)


def claim(broker: Broker) -> None:
    """Begin a move whose process is killed once it has claimed tasks."""
    crash_before(broker, "read_claimed", run=move)


def crash_before(broker: Broker, script: str, *, call: int = 1, run: Callable[[Broker], int] | None = None) -> None:
    """Finish claims, or run something else, in a process that is killed before a script runs for the n-th time."""
    whole, calls = broker.connection, iter(range(1, call + 1))

    def crash() -> None:
        if next(calls) == call:
            raise Crash

    broker.connection = ObservedConnection(whole, script, before=crash)
    with pytest.raises(Crash):
        run(broker) if run else finish_claims(broker, S)
    broker.connection = whole


def claim_all(broker: Broker, *, token: str) -> None:
    """Claim the tasks of every index, as a process that is killed after it."""
    for state, index in moving._indexes(broker, S):  # noqa: SLF001 (no other way to stop a process there)
        broker.run(moving._claim(S, state, index, token=token, destination=D))  # noqa: SLF001 (as above)


def print_and_complete(broker: Broker, task_id: str, queue: str = S) -> None:
    put(broker, task_id, queue=queue)
    (taken,) = take(broker, 1, queue)
    broker.run(write_output([OutputChunk(lease=taken.lease, text=b"hello")]))
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))


def test_an_output_of_the_wrong_type_does_not_hold_up_a_move(broker: Broker) -> None:
    put(broker, "a", "b", "c", queue=S)
    broker.client.set(OLD.output("b"), "a worker's")

    assert move(broker) == 3

    assert listed(broker, D) == {"pending": ["a", "b", "c"]}
    assert not broker.client.exists(OLD.output("b"))
    assert not broker.client.exists(NEW.output("b"))


INVALID = [
    *(b"junk", b"\xff", b"t x - 1 mail.default", b"t active - 1 mail.default", b"t pending - one mail.default", b""),
    *(b"t pending 5 1 mail.default", b"t scheduled - 1 mail.default", b"t pending - 1 ", b" pending - 1 mail.default"),
]


@pytest.mark.parametrize("content", INVALID)
def test_an_invalid_claim_without_a_task_is_logged_and_deleted(broker: Broker, content: bytes) -> None:
    put(broker, "a", "b", queue=S)
    claim(broker)
    broker.client.hset(OLD.claims, f"{content!r}{broker.is_cluster}", content)  # failures are remembered by id
    put(broker, "c", queue=S)

    with capture_logs() as logs:
        assert move(broker) == 3

    assert sorted(listed(broker, D)["pending"]) == ["a", "b", "c"]
    assert broker.run(count_claims([S])) == {}
    assert [entry["error"] for entry in logs if entry["event"] == "task_not_moved"] == ["the claim is invalid"]


def test_an_invalid_claim_does_not_take_a_task_from_its_index(broker: Broker) -> None:
    put(broker, "a", queue=S)
    broker.client.hset(OLD.claims, "a", "junk")

    finish_claims(broker, S)

    assert (listed(broker, S), broker.run(count_claims([S]))) == ({"pending": ["a"]}, {})


def test_tasks_of_invalid_claims_are_archived_and_moved(broker: Broker) -> None:
    put(broker, "later", queue=S, process_at_s=broker.now_s() + 60)
    print_and_complete(broker, "done")
    broker.run(enqueue_unique(new_task("a", S, unique_key="k"), now_ns=broker.now_ns(), is_cluster=broker.is_cluster))
    claim_all(broker, token="t1")
    for task_id in ("a", "later", "done"):
        broker.client.hset(OLD.claims, task_id, "junk")

    finish_claims(broker, S)

    assert sorted(listed(broker, S)["archived"]) == ["a", "later"]
    assert listed(broker, S)["completed"] == ["done"]
    assert broker.run(count_claims([S])) == {}
    assert not broker.client.exists(OLD.lock("k"))
    assert move(broker) == 3
    found = broker.run(find_task("later"))
    assert (found.state, found.queue) == (TaskState.ARCHIVED, D)
    assert "run it again" in found.error
    assert broker.run(run_tasks(D, ["later"], now_ns=broker.now_ns())) == [ActionOutcome.DONE]
    assert broker.run(find_task("done")).result == b"1"


def test_a_stored_task_whose_claim_became_invalid_does_not_run_twice(broker: Broker) -> None:
    put(broker, "a", queue=S)
    claim(broker)
    crash_before(broker, "move_lookup")
    broker.client.hset(OLD.claims, "a", "junk")

    move(broker)

    assert listed(broker, D) == {"pending": ["a"]}
    assert listed(broker, S) == {"archived": ["a"]}


def test_claims_of_the_wrong_type_leave_all_tasks_in_place(broker: Broker) -> None:
    put(broker, "a", queue=S)
    broker.client.set(OLD.claims, "x")

    assert move(broker) == 0

    assert listed(broker, S) == {"pending": ["a"]}
    assert "moving" not in fields(broker, "a", S)


def test_a_key_that_is_no_task_is_removed_with_its_index_entry(broker: Broker) -> None:
    put(broker, "a", "b", queue=S)
    broker.client.set(OLD.task("text"), "x")
    broker.client.lpush(OLD.pending, "text")

    assert move(broker) == 2
    assert listed(broker, S) == {}
    assert not broker.client.exists(OLD.task("text"))


def test_an_index_of_the_wrong_type_does_not_hold_up_the_others(broker: Broker) -> None:
    put(broker, "a", queue=S)
    broker.client.set(OLD.scheduled, "x")

    assert move(broker) == 1
    assert listed_pending(broker, D) == ["a"]


def test_a_task_is_kept_whole_while_its_destination_has_an_index_of_the_wrong_type(broker: Broker) -> None:
    put(broker, "later", queue=S, process_at_s=broker.now_s() + 60)
    put(broker, "a", queue=S)
    broker.client.set(NEW.scheduled, "x")

    moved, again = move(broker), move(broker)
    broker.client.delete(NEW.scheduled)

    assert (moved, again) == (1, 0)
    assert not broker.client.exists(NEW.task("later"))
    assert finish_claims(broker, S) == 1
    assert listed(broker, D) == {"pending": ["a"], "scheduled": ["later"]}


def test_ids_and_groups_that_are_not_text_are_moved(broker: Broker) -> None:
    for task_id, index in (
        (b"\xff\x00", OLD.pending),
        (b"\xfe", OLD.scheduled),
        (b"\xfd", OLD.group("").encode() + b"\xfc"),
    ):
        key = OLD.task("").encode() + task_id
        state = {OLD.pending: "pending", OLD.scheduled: "scheduled"}.get(index, "aggregating")
        broker.client.hset(key, mapping={"msg": b"m", "state": state, "group": b"\xfc"})
        broker.client.hset(OLD.output("").encode() + task_id, "attempts", "1")
        if state == "pending":
            broker.client.lpush(index, task_id)
        else:
            broker.client.zadd(index, {task_id: 4_000_000_000})
    broker.client.sadd(OLD.groups, b"\xfc")

    assert move(broker) == 3

    assert broker.client.lrange(NEW.pending, 0, -1) == [b"\xff\x00"]
    assert broker.client.zrange(NEW.scheduled, 0, -1) == [b"\xfe"]
    assert broker.client.zrange(NEW.group("").encode() + b"\xfc", 0, -1) == [b"\xfd"]
    assert broker.client.smembers(NEW.groups) == {b"\xfc"}
    assert broker.run(count_claims([S])) == {}
    for task_id in (b"\xff\x00", b"\xfe", b"\xfd"):
        assert broker.client.hget(NEW.task("").encode() + task_id, "msg") == b"m"
        assert not broker.client.exists(OLD.task("").encode() + task_id)


def test_a_refused_task_leaves_no_output_in_the_destination(broker: Broker) -> None:
    print_and_complete(broker, "same")
    put(broker, "same", queue=D, payload=b"theirs")

    assert move(broker) == 0

    assert not broker.client.exists(NEW.output("same"))
    assert broker.client.exists(OLD.output("same"))


def test_output_of_an_earlier_task_in_the_destination_is_replaced(broker: Broker) -> None:
    broker.client.hset(NEW.output("a"), mapping={"attempts": "1,2", "2": "old"})
    print_and_complete(broker, "a")

    assert move(broker) == 1

    found = broker.client.hgetall(NEW.output("a"))
    assert (found[b"attempts"], found[b"1"]) == (b"1", b"hello")
    assert b"2" not in found


def test_a_task_that_another_process_put_back_is_not_stored_too(broker: Broker) -> None:
    put(broker, "same", queue=D, payload=b"theirs")
    put(broker, "same", queue=S, payload=b"ours")
    claim(broker)
    whole, calls = broker.connection, []

    def act_meanwhile() -> None:
        """Another process puts the task back; then the task that has its id is deleted."""
        if not calls:
            calls.append(1)
            assert finish_claims(broker, S) == 0
            assert listed(broker, S) == {"pending": ["same"]}
            broker.client.delete(NEW.task("same"), NEW.pending)

    broker.connection = ObservedConnection(whole, "store_moved", before=act_meanwhile)
    finish_claims(broker, S)
    broker.connection = whole

    assert (listed(broker, S), listed(broker, D)) == ({"pending": ["same"]}, {})
    assert not broker.client.exists(NEW.task("same"))
    assert move(broker) == 1
    assert message(broker, "same", D).payload == b"ours"


def test_a_task_stays_claimed_until_its_index_entry_names_the_destination(broker: Broker) -> None:
    put(broker, "b", "a", queue=S)  # the newest is moved first
    whole, errors = broker.connection, iter([RedisConnectionError("the node is away")])
    broker.connection = ObservedConnection(whole, "move_lookup", replace=lambda reply: next(errors, reply))

    with pytest.raises(BrokerUnavailable):
        move(broker)

    broker.connection = whole
    (stored,) = broker.client.scan_iter(f"{NEW.moved('')}*")
    assert broker.run(count_claims([S])) == {S: 1}
    assert broker.client.ttl(stored) > 24 * 3600  # the claim may be finished later, and not twice
    broker.client.hset(keys.lookup("a"), "queue", S)  # as if the command had not run
    assert finish_claims(broker, S) == 1
    assert broker.client.hget(keys.lookup("a"), "queue") == D.encode()


def test_what_a_move_stored_is_remembered_while_one_of_its_claims_is_left(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token, task_ids in (("t1", "a"), ("t2", "bcd")):
        put(broker, *task_ids, queue=S)
        claim_all(broker, token=token)
    crash_before(broker, "move_lookup", call=1)
    assert {len(broker.client.smembers(NEW.moved(token))) for token in ("t1", "t2")} == {1, 3}

    monkeypatch.setattr(move_claims, "BATCH_MAX_TASKS", 3)
    crash_before(broker, "read_claimed", call=2)

    assert broker.client.hkeys(OLD.claims)
    assert broker.client.ttl(NEW.moved("t2")) > 24 * 3600
    finish_claims(broker, S)
    assert broker.client.ttl(NEW.moved("t2")) <= 3600
    assert sorted(listed(broker, D)["pending"]) == ["a", "b", "c", "d"]


def test_running_a_task_that_is_being_moved_leaves_no_lock(broker: Broker) -> None:
    task = new_task("a", S, unique_key="k", retention_s=3600)
    broker.run(enqueue_unique(task, now_ns=broker.now_ns(), is_cluster=broker.is_cluster))
    (taken,) = take(broker, 1, S)
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))
    claim(broker)

    assert broker.run(run_tasks(S, ["a"], now_ns=broker.now_ns())) == [ActionOutcome.WRONG_STATE]

    assert not broker.client.exists(OLD.lock("k"))


def listed_pending(broker: Broker, queue: str) -> list[str]:
    return [task_id.decode() for task_id in broker.client.lrange(QueueKeys(queue).pending, 0, -1)]
