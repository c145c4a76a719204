"""Dequeue tasks while slots are free, submit them to the pool and record their results, in few round trips."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import structlog

from runqy import clock
from runqy.broker.constants import LARGE_RESULT_BYTES, POLL_S
from runqy.broker.pubsub import WorkerEvent
from runqy.broker.tasks.archive_reasons import ErrorClass
from runqy.broker.tasks.cancel import read_marks
from runqy.broker.tasks.dequeue import dequeue_tasks
from runqy.broker.tasks.finish import FinishOutcome
from runqy.broker.tasks.lease import Extension, Lease, LeasedTask
from runqy.broker.tasks.record import TaskProgress
from runqy.core.telemetry.failure_log import FailureLog
from runqy.core.telemetry.tracing import REQUEST_ID
from runqy.errors import (
    BrokerCommandRefused,
    BrokerRefused,
    BrokerUnavailable,
    LeaseLost,
    RunqyError,
)
from workers.runtime.consumer_state import ConsumeConfig, ConsumerState, RoundTrip
from workers.runtime.heartbeat import RunCounts
from workers.runtime.logs import child_error_members, error_members
from workers.runtime.output_writer import ChunkWriter, OutputWriter, record_all
from workers.runtime.pool import Pool
from workers.runtime.protocol import ChunkLine
from workers.runtime.redaction import secrets
from workers.runtime.redis_connections import RedisConnections
from workers.runtime.retries import backoff_s
from workers.runtime.task_runs import (
    Run,
    RunResult,
    RunStatus,
    add_streamed_result,
    limit_result,
    make_run,
    plan_finishes,
    read_streamed_results,
    refuse_large_results,
)

TICK_S = 0.2
"""The precision of timeouts."""
MIN_POLL_INTERVAL_S = 0.125
"""The queues of a process poll at multiples of this, so that many of them share one write to Redis."""

log = structlog.get_logger()


class Consumer:
    """The tasks of one queue that this worker leases. It carries out what ConsumerState decides."""

    def __init__(
        self,
        connections: RedisConnections,
        config: ConsumeConfig,
        *,
        on_state_change: Callable[[], None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_state_change` is called when the pool or `refusal` changes, `on_refused` when Redis refuses a request."""
        self.counts = RunCounts()
        self.last_take_s: int | None = None
        # Why Redis refused the last dequeue; empty if it did not.
        self.refusal = ""
        # Set while no tasks are leased.
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._state = ConsumerState(config)
        self._connections = connections
        self._on_state_change = on_state_change
        self._on_refused = on_refused
        self._output = OutputWriter(lambda: self._connections.tasks)
        self._chunks = ChunkWriter(lambda: self._connections.tasks)
        self._pool: Pool | None = None
        self._loop = asyncio.get_running_loop()
        self._round_trips: set[asyncio.Task[None]] = set()
        self._is_scheduled = False
        self._is_draining = False
        self._is_closed = False
        # The id of the task that runqy cancels with the next message.
        self._marked_id = ""
        self._backoff: asyncio.TimerHandle | None = None
        self._failure_log = FailureLog("broker_available")
        self._ticks: asyncio.Handle | None = None
        self._polls: asyncio.Handle = self._loop.call_soon(self._poll)

    @property
    def config(self) -> ConsumeConfig:
        return self._state.config

    @property
    def runs(self) -> dict[str, Run]:
        """Return all leased tasks. Keys are lease tokens."""
        return self._state.runs

    @property
    def refill_s(self) -> float:
        return self._state.refill_s

    @property
    def slots(self) -> int:
        """How many tasks can run at once; 0 before the first deployment."""
        return self._pool.slots if self._pool else 0

    @property
    def free_slots(self) -> int:
        return self._state.count_free_slots(min(self.slots, self._capacity))

    @property
    def taken(self) -> int:
        return self._state.taken

    @property
    def _capacity(self) -> int:
        return self._pool.capacity if self._pool else 0

    def begin(self, pool: Pool) -> None:
        self._pool = pool
        self.resume()

    def resume(self) -> None:
        self._state.is_dequeuing = self._pool is not None and not self._is_draining
        self.wake()

    def apply(self, config: ConsumeConfig, connections: RedisConnections | None) -> None:
        self._state.config = config
        self._connections = connections or self._connections
        self._end_backoff()

    def stop_dequeuing(self) -> None:
        """Stop dequeuing and requeue the tasks that have not started."""
        self._state.is_dequeuing = False
        if self._pool:
            self._pool.requeue_unstarted()

    def drain(self) -> None:
        """Stop dequeuing for good."""
        self._is_draining = True
        self.stop_dequeuing()

    async def close(self) -> None:
        self._is_closed = True
        for handle in (self._polls, self._ticks, self._backoff, *self._round_trips):
            if handle:
                handle.cancel()
        await asyncio.gather(*self._round_trips, return_exceptions=True)
        await self._output.close()
        await self._chunks.close()

    def wake(self) -> None:
        self._state.wake()
        self._schedule()

    def receive_cancellation(self, event: WorkerEvent, subject: str) -> None:
        if event is WorkerEvent.RUN_CANCELED:
            self.cancel_run(subject)
        elif event is WorkerEvent.MARKED:
            self._marked_id = subject
        else:
            is_marked, self._marked_id = subject == self._marked_id, ""
            if leases := [run.task.lease for run in self.runs.values() if run.task_id == subject]:
                self._start(self._cancel_task(leases, is_marked=is_marked))

    def cancel_run(self, token: str) -> None:
        """End a run. If it was to be requeued, but is not yet recorded, it is canceled instead."""
        if run := self.runs.get(token):
            self._end_early(run, RunResult(RunStatus.CANCELED))
            self._state.cancel_requeue(run)

    async def _cancel_task(self, leases: Sequence[Lease], *, is_marked: bool) -> None:
        """End the runs of marked tasks; without a mark, also on tasks of other queues, all of them, as asynq does."""
        try:
            marks = await self._connections.leases.send(read_marks(leases))
        except RunqyError:
            return  # heartbeats find marks
        ends_all = not (is_marked or any(marks))
        for lease, has_mark in zip(leases, marks, strict=True):
            if has_mark or ends_all:
                self.cancel_run(lease.token)

    def apply_extension(self, extension: Extension) -> None:
        """End the runs whose leases were lost or whose cancellation was requested."""
        for lease in extension.extended:
            if run := self.runs.get(lease.token):
                run.lease_end_s = extension.lease_end_s
        for lease in extension.lost:
            run = self.runs.get(lease.token)
            if run and run.result is None:
                log.warning("lease_lost", task_id=lease.task_id, queue=lease.queue)
                self._end_early(run, RunResult(RunStatus.LOST))
        for lease in extension.canceled:
            if run := self.runs.get(lease.token):
                self._end_early(run, RunResult(RunStatus.CANCELED))

    def has_lease(self, run: Run) -> bool:
        """Return whether a run may start. See PoolOwner."""
        if self._connections.now_ns() < run.lease_end_s * 1_000_000_000:
            return True
        log.warning("lease_lost", task_id=run.task_id, queue=run.task.lease.queue)
        return False

    def run_started(self, run: Run) -> None:
        run.start(now_ns=self._connections.now_ns())
        self.counts.record_start(run)

    def run_ended(self, run: Run, result: RunResult) -> None:
        """Record the run's result with the next round trip. See PoolOwner."""
        if run.stream is not None:
            result = add_streamed_result(run, result)
        result = limit_result(result, self.config.policy)
        if result.error:
            error, error_class = secrets.redact(result.error), secrets.redact(result.error_class)
            result = msgspec.structs.replace(result, error=error, error_class=error_class)
        if self._state.end_run(run, result):
            self.counts.record_end(run)
            if run.span:
                run.span.end(result.status.value, is_error=bool(result.error), now_ns=self._connections.now_ns())
            if result.status is RunStatus.LOST:
                self._forget_written(run)
        self._schedule()

    def batch_sent(self, members: int) -> None:
        self.counts.record_batch(members)

    def shared_death(self, runs: Sequence[Run], cause: str) -> None:
        self.counts.record_shared_death(len(runs))
        log.warning("child_died_with_tasks", tasks=len(runs), **child_error_members(cause))
        note = f"[its process died while it ran {len(runs)} tasks, and the task runs again]"
        self.run_printed(runs, note.encode(), is_line=True)

    def run_printed(self, runs: Sequence[Run], data: bytes, *, is_line: bool) -> None:
        if self.config.keeps_output:
            self._output.add(runs, data, is_line=is_line)

    def run_logged(self, run: Run, text: str) -> None:
        if self.config.keeps_output:
            self._output.add((run,), text.encode(errors="replace"), is_line=True)

    def run_sent_again(self, run: Run) -> None:
        self.counts.record_interruption()
        self._chunks.restart(run)

    def run_chunk(self, run: Run, line: ChunkLine) -> None:
        """Store a chunk, or end the run if it streams too much. See PoolOwner."""
        # What is streamed while a run is being ended is not part of its result.
        if run.forced_result is not None or not self.config.policy.keeps_results:
            return
        if line.problem:
            self._end_early(run, RunResult(RunStatus.FAILED, line.problem, ErrorClass.RESULT_INVALID))
        elif error := self._chunks.add(run, line.value):
            self._end_early(run, RunResult(RunStatus.FAILED, error, ErrorClass.RESULT_TOO_LARGE))

    def run_progressed(self, run: Run, progress: TaskProgress) -> None:
        self._output.set_progress(run, progress)

    def pool_changed(self) -> None:
        self._on_state_change()
        self._schedule()

    def _forget_written(self, run: Run) -> None:
        if run.output is not None:
            self._output.forget(run)
        if run.stream is not None:
            self._chunks.forget(run)

    def _end_early(self, run: Run, forced_result: RunResult) -> None:
        if self._pool and run.result is None:
            self._pool.end_run(run, forced_result)

    def _poll(self) -> None:
        """Poll for the tasks of producers that publish no wake-up."""
        due_s = self._loop.time() + backoff_s(0, first_s=POLL_S, max_s=POLL_S)
        self._polls = self._loop.call_at(math.ceil(due_s / MIN_POLL_INTERVAL_S) * MIN_POLL_INTERVAL_S, self._poll)
        self.wake()

    def _tick(self) -> None:
        # Runs only while there are runs: `_accept` starts it again.
        self._ticks = self._loop.call_later(TICK_S, self._tick) if self.runs else None
        if self._pool:
            self._pool.check_runs(clock.monotonic_s())

    def _schedule(self) -> None:
        """Decide about round trips at the end of this loop iteration: what happens until then shares one."""
        if not (self._is_scheduled or self._is_closed):
            self._is_scheduled = True
            self._loop.call_soon(self._begin_round_trips)

    def _begin_round_trips(self) -> None:
        self._is_scheduled = False
        round_trip = None if self._is_closed else self._state.begin_round_trip(self._capacity)
        if round_trip:
            self._start(self._make_round_trip(round_trip))
        if self._state.is_empty:
            self.emptied.set()
        else:
            self.emptied.clear()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._round_trips.add(task)
        task.add_done_callback(self._round_trips.discard)

    async def _make_round_trip(self, round_trip: RoundTrip) -> None:
        try:
            await self._record_and_dequeue(round_trip)
        except Exception as error:  # noqa: BLE001 (a bug where a reply is handled may strand no run)
            self._state.fail_round_trip(round_trip)
            self._back_off(error)
        finally:
            self._schedule()

    async def _record_and_dequeue(self, round_trip: RoundTrip) -> None:
        """Carry out a round trip. What has no known outcome is repeated by a later one."""
        runs, dequeue, policy = round_trip.runs, round_trip.dequeue, self.config.policy
        outcomes: Sequence[Any]
        tasks: Sequence[LeasedTask] | RunqyError = ()
        try:
            connections = self._connections
            if streamed := [run for run in runs if run.stream is not None]:
                await read_streamed_results(connections.tasks, streamed, policy)
            if streamed or round_trip.size_bytes > LARGE_RESULT_BYTES:
                await refuse_large_results(connections.tasks, runs, policy)
            now_ns = connections.now_ns()
            # What a run streamed is part of its size only now.
            size_bytes = None if streamed else round_trip.size_bytes
            finishes = plan_finishes(runs, policy, now_ns=now_ns, size_bytes=size_bytes)
            writes = [*self._output.plan_final(runs), *self._chunks.plan_final(runs)]
            requests = [*(write.request for write in writes), *(finish.request for finish in finishes)]
            if dequeue is None:
                outcomes = await connections.tasks.send_all(requests)
            else:
                tasks, outcomes = await dequeue_tasks(
                    connections.tasks, dequeue, now_ns=now_ns, extra_requests=requests
                )
        except Exception as error:  # noqa: BLE001 (what failed is logged and repeated)
            self._state.fail_round_trip(round_trip)
            if dequeue is not None:
                self._record_refusal(error)
            self._back_off(error)
            return
        self._state.end_round_trip(round_trip, tasks)
        outcomes = record_all(writes, outcomes)
        for finish, outcome in zip(finishes, outcomes, strict=True):
            for run, part in finish.match(outcome):
                self._settle(run, part)
        errors: list[RunqyError] = [outcome for outcome in outcomes if isinstance(outcome, BrokerUnavailable)]
        if isinstance(tasks, RunqyError):
            errors.append(tasks)
            self._record_refusal(tasks)
        elif dequeue is not None:
            self._set_refusal("")
            self._accept(tasks)
        if errors:
            self._back_off(errors[0])
        else:
            self._failure_log.record_success()
            self._state.failures = 0

    def _record_refusal(self, error: Exception) -> None:
        if isinstance(error, BrokerRefused | BrokerCommandRefused):
            self._set_refusal(str(error))

    def _set_refusal(self, reason: str) -> None:
        if reason != self.refusal:
            self.refusal = reason
            self._on_state_change()

    def _back_off(self, error: Exception) -> None:
        if isinstance(error, BrokerUnavailable):
            self._failure_log.record("broker_unavailable", key=str(error), error=str(error))
        else:
            self._failure_log.record("round_trip_failed", key=repr(error), exc_info=error)
        if isinstance(error, BrokerRefused):
            self._on_refused()
        if self._state.back_off():
            delay = backoff_s(self._state.failures - 1, first_s=0.1, max_s=5.0)
            self._backoff = self._loop.call_later(delay, self._end_backoff)

    def _end_backoff(self) -> None:
        if self._backoff:
            self._backoff.cancel()
        self._state.is_backing_off = False
        self._schedule()

    def _settle(self, run: Run, outcome: FinishOutcome | RunqyError) -> None:
        """Record what became of an ended run, or keep it for the next round trip."""
        if not self._state.settle(run, outcome):
            return
        self._forget_written(run)
        if isinstance(outcome, FinishOutcome):
            self.counts.record_outcome(run, outcome)
            if run.result and outcome not in (FinishOutcome.COMPLETED, FinishOutcome.REQUEUED):
                _log_failure(run, run.result, outcome)
            return
        task = {"task_id": run.task_id, "queue": run.task.lease.queue}
        if isinstance(outcome, BrokerRefused):
            log.warning("finish_refused", **task, reason="the queue was removed")
        elif isinstance(outcome, LeaseLost):
            log.warning("finish_refused", **task, status=run.result.status.value if run.result else "")
        else:
            log.error("finish_failed", **task, error=outcome.detail)

    def _accept(self, tasks: Sequence[LeasedTask]) -> None:
        """Submit tasks to the pool. Those that cannot run end here."""
        if not tasks:
            return
        now_ns = self._connections.now_ns()
        self.last_take_s = now_ns // 1_000_000_000
        submitted: list[Run] = []
        for task in tasks:
            if task.lease.token in self.runs:  # by a reply that was not handled to the end
                continue
            try:
                run, refusal = make_run(task, now_ns=now_ns)
            except Exception as error:
                log.exception("task_not_started", task_id=task.lease.task_id, queue=task.lease.queue)
                run = Run(task=task, line=b"", lease_end_s=task.lease_end_s)
                refusal = RunResult(RunStatus.RETRYABLE, f"worker_error: {error!r}")
            self._state.lease(run)
            if refusal:
                self.run_ended(run, refusal)
            elif self._pool is None or not self._state.is_dequeuing:
                self.run_ended(run, RunResult(RunStatus.REQUEUED))
            else:
                submitted.append(run)
        if self._pool:
            self._pool.submit(*submitted)  # together, so that they share batches
        if self._ticks is None:
            self._ticks = self._loop.call_later(TICK_S, self._tick)


def _log_failure(run: Run, result: RunResult, outcome: FinishOutcome) -> None:
    has_child_died = result.status is RunStatus.CHILD_DIED
    error = child_error_members(result.error) if has_child_died else error_members(result.error)
    request_id = run.task.message.headers.get(REQUEST_ID, "")
    write = log.info if result.status is RunStatus.CANCELED else log.warning
    write("task_failed", **error, task_id=run.task_id, outcome=outcome.value, request_id=request_id)
