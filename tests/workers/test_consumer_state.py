"""Which round trip a consumer makes next, for each event, and what holds after any sequence of events."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runqy import clock
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.tasks.dequeue import DequeueRequest, QueueWeight
from runqy.broker.tasks.finish import FinishOutcome
from runqy.broker.tasks.lease import Lease, LeasedTask
from runqy.errors import BrokerCommandRefused, BrokerRefused, BrokerUnavailable, LeaseLost, RunqyError
from workers.runtime.consumer_state import ConsumeConfig, ConsumerState, RoundTrip
from workers.runtime.retries import QueuePolicy
from workers.runtime.task_runs import Run, RunResult, RunStatus

CONFIG = ConsumeConfig(
    worker_id="w1",
    wake_token="wake",
    concurrency=4,
    weights=(QueueWeight(queue="mail"), QueueWeight(queue="news")),
    is_strict=False,
    policy=QueuePolicy(),
)
DONE = RunResult(RunStatus.SUCCEEDED, output=b"1")
LARGE = RunResult(RunStatus.SUCCEEDED, output=b"x" * (300 << 10))
RESULTS = {"done": DONE, "large": LARGE} | {status.value: RunResult(status) for status in RunStatus}
"""By name, so that a failed example does not print them."""


def leased_task(token: str, queue: str = "mail") -> LeasedTask:
    return LeasedTask(lease=Lease(queue, f"task-{token}", token), message=TaskMessage(), lease_end_s=0)


def consuming(concurrency: int = 4) -> ConsumerState:
    return ConsumerState(replace(CONFIG, concurrency=concurrency), is_dequeuing=True)


def lease(state: ConsumerState, count: int) -> list[Run]:
    runs = [Run(task=leased_task(f"{len(state.runs)}-{n}"), line=b"") for n in range(count)]
    for run in runs:
        state.lease(run)
    return runs


def end(state: ConsumerState, count: int, result: RunResult = DONE) -> None:
    for run in lease(state, count):
        state.end_run(run, result)


def begun(state: ConsumerState, capacity: int = 4) -> RoundTrip:
    round_trip = state.begin_round_trip(capacity)
    assert round_trip is not None
    return round_trip


def get_no_task(state: ConsumerState, *, wakes: bool = False) -> None:
    round_trip = begun(state)
    if wakes:
        state.wake()
    state.end_round_trip(round_trip, ())


def lose_a_dequeue(state: ConsumerState, count: int = 4) -> None:
    state.fail_round_trip(begun(state, count))


def begin_with(state: ConsumerState, *, held: int, ended: int) -> None:
    """Begin a round trip that requests tasks for the slots that are left, then end some runs."""
    runs = lease(state, held)
    begun(state)
    for run in runs[:ended]:
        state.end_run(run, DONE)


def begin_two(state: ConsumerState) -> None:
    begin_with(state, held=2, ended=2)
    begun(state)
    end(state, 2)


def settle(state: ConsumerState, error: RunqyError) -> None:
    end(state, 1)
    round_trip = begun(state)
    state.end_round_trip(round_trip, [leased_task("a")] * 4)
    state.settle(round_trip.runs[0], error)


def stop(state: ConsumerState) -> None:
    state.is_dequeuing = False


def ended_while_stopped(state: ConsumerState) -> None:
    stop(state)
    end(state, 1)


@pytest.mark.parametrize(
    ("event", "capacity", "recorded", "requested"),
    [
        pytest.param(lambda state: None, 4, 0, 4, id="a task for each slot"),
        pytest.param(lambda state: None, 2, 0, 2, id="no more than the children announce"),
        pytest.param(lambda state: None, 100, 0, 4, id="no more than the setting"),
        pytest.param(lambda state: None, 0, 0, 0, id="nothing without a ready child"),
        pytest.param(stop, 4, 0, 0, id="nothing while stopped"),
        pytest.param(ConsumerState.back_off, 4, 0, 0, id="nothing while backing off"),
        pytest.param(get_no_task, 4, 0, 0, id="nothing until the next poll"),
        pytest.param(lambda s: (get_no_task(s), s.wake()), 4, 0, 4, id="again after a poll"),
        pytest.param(lambda s: get_no_task(s, wakes=True), 4, 0, 4, id="a wake-up during the dequeue"),
        pytest.param(lambda s: lease(s, 3), 4, 0, 1, id="a task for the free slot"),
        pytest.param(lambda s: lease(s, 4), 2, 0, 0, id="a child less than there are tasks"),
        pytest.param(lambda s: (lease(s, 3), end(s, 1)), 4, 1, 1, id="a slot is free before its result is recorded"),
        pytest.param(ended_while_stopped, 4, 1, 0, id="results are recorded while stopped"),
        pytest.param(lambda s: end(s, 1, RunResult(RunStatus.LOST)), 4, 0, 4, id="a lost lease is not recorded"),
        pytest.param(lambda s: end(s, 1, LARGE), 4, 1, 0, id="no lease waits behind a large result"),
        pytest.param(lambda s: end(s, 250), 4, 200, 4, id="as many results as a round trip carries"),
        pytest.param(lambda s: end(s, 9, LARGE), 4, 3, 0, id="as many bytes as a round trip carries"),
        pytest.param(lambda s: begin_with(s, held=2, ended=1), 4, 0, 0, id="no second round trip for one result"),
        pytest.param(lambda s: begin_with(s, held=2, ended=2), 4, 2, 2, id="a second round trip for many results"),
        pytest.param(begin_two, 4, 0, 0, id="no third round trip"),
        pytest.param(lambda s: settle(s, BrokerUnavailable()), 4, 1, 4, id="what Redis did not run is sent again"),
        pytest.param(lambda s: settle(s, BrokerCommandRefused()), 4, 1, 4, id="what failed together is sent alone"),
        pytest.param(lambda s: settle(s, LeaseLost()), 4, 0, 4, id="a lost lease is given up"),
        pytest.param(lose_a_dequeue, 4, 0, 4, id="a dequeue whose reply was lost"),
        pytest.param(lambda s: (lose_a_dequeue(s), stop(s)), 4, 0, 4, id="a lost dequeue while stopped"),
        pytest.param(lambda s: lose_a_dequeue(s, 3), 4, 0, 3, id="a lost dequeue before a new one"),
    ],
)
def test_the_next_round_trip(
    event: Callable[[ConsumerState], object], capacity: int, recorded: int, requested: int
) -> None:
    state = consuming()
    event(state)

    round_trip = state.begin_round_trip(capacity)

    runs, dequeue = (round_trip.runs, round_trip.dequeue) if round_trip else ((), None)
    assert (len(runs), len(dequeue.lease_tokens) if dequeue else 0) == (recorded, requested)


def test_the_time_from_a_free_slot_to_its_task_is_measured_while_redis_has_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times_s = iter(range(0, 100, 2))
    monkeypatch.setattr(clock, "monotonic_s", lambda: next(times_s))
    state = consuming(1)
    state.end_round_trip(begun(state), [leased_task("first")])  # 2 s
    (run,) = lease(state, 1)
    measured = [state.refill_s]
    state.end_run(run, DONE)
    state.end_round_trip(begun(state), ())  # the queue is empty: how long it stays so is no measure
    state.settle(run, FinishOutcome.COMPLETED)
    assert state.begin_round_trip(4) is None
    measured.append(state.refill_s)
    state.wake()
    state.end_round_trip(begun(state), [leased_task("second")])
    measured.append(state.refill_s)

    assert measured == [2, 2, 2]


def test_a_worker_that_is_woken_without_a_free_slot_passes_the_wake_up_on_once() -> None:
    state = consuming()
    state.end_round_trip(begun(state), [leased_task("a")])
    lease(state, 1)
    assert state.begin_round_trip(1) is None  # its task is a batch that is under way

    state.wake()
    round_trip = begun(state, 1)
    state.end_round_trip(round_trip, ())
    state.wake()

    assert round_trip.dequeue is not None
    assert round_trip.dequeue.lease_tokens == ()
    assert state.begin_round_trip(1) is None


def test_a_lost_dequeue_is_repeated_with_its_tokens_for_the_queues_that_are_left() -> None:
    state = consuming()
    round_trip = begun(state)
    lost = round_trip.dequeue
    assert lost is not None
    state.fail_round_trip(round_trip)
    state.config = replace(CONFIG, weights=CONFIG.weights[1:])

    repeated = begun(state).dequeue

    assert repeated is not None
    assert (repeated.lease_tokens, repeated.is_repeat, repeated.queues) == (lost.lease_tokens, True, ("news",))


def test_results_of_a_lost_round_trip_are_the_first_of_the_next() -> None:
    state = consuming()
    end(state, 2)
    lost = begun(state)
    end(state, 1)

    state.fail_round_trip(lost)

    assert begun(state).runs[:2] == lost.runs


def test_what_belongs_to_a_removed_queue_is_given_up() -> None:
    state = consuming()
    end(state, 1)
    round_trip = begun(state)
    state.fail_round_trip(round_trip)
    stop(state)
    state.config = replace(CONFIG, weights=(QueueWeight(queue="other"),))

    again = begun(state)
    state.end_round_trip(again, ())

    assert again.dequeue is None
    assert state.settle(again.runs[0], BrokerRefused())
    assert state.is_empty


@pytest.mark.parametrize(("is_sent", "status"), [(False, RunStatus.CANCELED), (True, RunStatus.REQUEUED)])
def test_a_cancel_replaces_a_requeue_that_no_round_trip_carries(is_sent: bool, status: RunStatus) -> None:
    state = consuming()
    (run,) = lease(state, 1)
    state.end_run(run, RunResult(RunStatus.REQUEUED))
    if is_sent:
        begun(state)

    state.cancel_requeue(run)

    assert run.result is not None
    assert run.result.status is status


def test_a_backoff_counts_once_while_it_lasts() -> None:
    state = consuming()

    assert [state.back_off(), state.back_off(), state.failures] == [True, False, 1]


@dataclass
class FakeRedis:
    """Tasks as Redis keeps them: a lease token gets the same task again, and its result is recorded once."""

    announced: int = 0
    silent: int = 0
    """Waiting tasks of producers that publish no wake-up."""
    active: set[str] = field(default_factory=set)
    recorded: dict[str, RunResult] = field(default_factory=dict)

    def dequeue(self, request: DequeueRequest) -> list[LeasedTask]:
        taken = [token for token in request.lease_tokens if token in self.active]
        for token in request.lease_tokens:
            # Redis knows a token only while its task is active: one that was recorded may get another task.
            if token not in self.active and (self.announced or self.silent):
                if self.silent:
                    self.silent -= 1
                else:
                    self.announced -= 1
                self.active.add(token)
                taken.append(token)
        return [leased_task(token) for token in taken]

    def record(self, run: Run) -> FinishOutcome | RunqyError:
        token = run.task.lease.token
        assert run.result is not None
        if token in self.active:
            self.active.remove(token)
            self.recorded[token] = run.result
        return FinishOutcome.COMPLETED if token in self.recorded else LeaseLost()


class Consuming(RuleBasedStateMachine):
    """A consumer and its Redis, whose requests and replies may be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.state = ConsumerState(replace(CONFIG, concurrency=5))
        self.redis = FakeRedis()
        # With the number of wake-ups before each.
        self.under_way: dict[RoundTrip, int] = {}
        self.replies: dict[RoundTrip, tuple[list[FinishOutcome | RunqyError], list[LeasedTask]]] = {}
        self.wake_ups = 0
        self.unconfirmed = 0
        self.given_up: set[str] = set()
        # Whether the last dequeue found too few tasks, and nothing has announced any since it began.
        self.is_quiet = False

    def running(self) -> list[Run]:
        return [run for run in self.state.runs.values() if run.result is None]

    @rule(count=st.integers(0, 3), is_announced=st.sampled_from([True, True, False]))
    def enqueue(self, count: int, is_announced: bool) -> None:
        """A producer enqueues tasks; no tasks and a wake-up are a poll."""
        if is_announced:
            self.redis.announced += count
            self.state.wake()
            self.wake_ups += 1
            self.is_quiet = False
        else:
            self.redis.silent += count

    @rule(capacity=st.sampled_from([5, 5, 5, 7, 3, 0]), is_dequeuing=st.sampled_from([True, True, True, False]))
    def begin(self, capacity: int, is_dequeuing: bool) -> None:
        self.state.is_dequeuing = is_dequeuing
        uncertain = sum(len(each.dequeue.lease_tokens) for each in self.under_way if each.dequeue) + self.unconfirmed
        free = min(capacity, 5) - len(self.running()) - uncertain

        round_trip = self.state.begin_round_trip(capacity)

        if round_trip is None:
            if not (self.under_way or self.state.is_backing_off):
                assert len(self.state.runs) == len(self.running()), "a result waits for ever"
                assert not self.unconfirmed, "a dequeue is not repeated"
                assert not (self.redis.announced and free > 0 and is_dequeuing), "a wake-up was lost"
            return
        assert not self.state.is_backing_off
        assert all(run.result is not None for run in round_trip.runs)
        assert not {run for each in self.under_way for run in each.runs} & {*round_trip.runs}, "recorded twice"
        if round_trip.dequeue and round_trip.dequeue.is_repeat:
            self.unconfirmed -= len(round_trip.dequeue.lease_tokens)
        elif round_trip.dequeue:
            assert is_dequeuing
            assert not self.is_quiet, "it does not wait for the next poll"
            assert len(round_trip.dequeue.lease_tokens) <= max(free, 0), "it leases more than can start"
        self.under_way[round_trip] = self.wake_ups

    @precondition(lambda self: self.under_way.keys() - self.replies.keys())
    @rule(data=st.data())
    def run_in_redis(self, data: st.DataObject) -> None:
        self.execute(data.draw(st.sampled_from([each for each in self.under_way if each not in self.replies])))

    def execute(self, round_trip: RoundTrip) -> None:
        outcomes = [self.redis.record(run) for run in round_trip.runs]
        self.replies[round_trip] = outcomes, self.redis.dequeue(round_trip.dequeue) if round_trip.dequeue else []

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), outcome=st.sampled_from(["replied", "replied", "replied", "partial", "lost"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        """Redis replies, or the request or its reply is lost. In a partial reply errors hide what Redis did."""
        round_trip = data.draw(st.sampled_from([*self.under_way]))
        if outcome == "lost":
            del self.under_way[round_trip]
            self.replies.pop(round_trip, None)
            self.state.fail_round_trip(round_trip)
            self.state.back_off()
            self.unconfirmed += len(round_trip.dequeue.lease_tokens) if round_trip.dequeue else 0
            return
        if round_trip not in self.replies:
            self.execute(round_trip)
        self.deliver(round_trip, is_partial=outcome == "partial")

    def deliver(self, round_trip: RoundTrip, *, is_partial: bool = False) -> None:
        outcomes, tasks = self.replies.pop(round_trip)
        is_woken = self.wake_ups != self.under_way.pop(round_trip)
        requested = len(round_trip.dequeue.lease_tokens) if round_trip.dequeue else 0
        if is_partial:
            outcomes = [BrokerCommandRefused() if n % 2 else BrokerUnavailable() for n in range(len(outcomes))]
        self.state.end_round_trip(round_trip, BrokerUnavailable() if is_partial and requested else tasks)
        for run, outcome in zip(round_trip.runs, outcomes, strict=True):
            self.state.settle(run, outcome)
        if is_partial:
            self.unconfirmed += requested
            return
        for task in tasks:
            assert task.lease.token not in self.state.runs, "leased twice"
            self.state.lease(Run(task=task, line=b""))
        if requested and (len(tasks) == requested or not is_woken):
            self.is_quiet = len(tasks) < requested

    @precondition(lambda self: self.running())
    @rule(data=st.data(), name=st.sampled_from(["done", *RESULTS]))
    def end_runs(self, data: st.DataObject, name: str) -> None:
        running, result = self.running(), RESULTS[name]
        for run in running[: data.draw(st.integers(1, len(running)))]:
            if result.status is RunStatus.LOST:
                self.given_up.add(run.task.lease.token)
            assert self.state.end_run(run, result)
            assert not self.state.end_run(run, DONE), "a second result counts"

    @precondition(lambda self: self.state.is_backing_off)
    @rule()
    def end_backoff(self) -> None:
        self.state.is_backing_off = False

    @invariant()
    def no_more_tasks_than_slots(self) -> None:
        assert len(self.running()) <= 5

    def teardown(self) -> None:
        """Let everything end: each task is then recorded once, given up or still pending."""
        results = {token: run.result for token, run in self.state.runs.items() if run.result}
        for _ in range(1_000):
            for round_trip in [*self.under_way]:
                if round_trip not in self.replies:
                    self.execute(round_trip)
                self.deliver(round_trip)
            for run in self.running():
                results[run.task.lease.token] = DONE
                self.state.end_run(run, DONE)
            self.state.is_backing_off = False
            self.begin(5, is_dequeuing=False)
            if not self.under_way:
                break
        assert self.state.is_empty
        assert self.redis.active <= self.given_up, "a leased task was forgotten"
        dropped = [token for token, result in results.items() if self.redis.recorded.get(token) is not result]
        assert not dropped, "a result was dropped"


TestConsuming = Consuming.TestCase
