"""A registered worker of one queue: its tasks, its children, and its heartbeat."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog

from runqy.broker.constants import HEARTBEAT_S
from runqy.broker.pubsub import WorkerEvent
from runqy.broker.streams.run_counters import RunCounters, add_run_counters
from runqy.broker.tasks.dequeue import QueueWeight
from runqy.broker.workers.heartbeats import deregister
from runqy.broker.workers.records import WorkerAction, WorkerRecord, WorkerState
from runqy.broker.workers.redis_users import is_worker_user, new_wake_token
from runqy.core.concurrency.threads import wait_any
from runqy.core.formats.error_texts import shorten
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerRefused, BrokerUnavailable
from workers.runtime.child import KILL_GRACE_S, TERM_GRACE_S
from workers.runtime.child_slot import IDLE_GRACE_S
from workers.runtime.consumer import Consumer
from workers.runtime.consumer_state import ConsumeConfig
from workers.runtime.deployments import DeploymentManager
from workers.runtime.heartbeat import (
    BrokerOutageTimer,
    HeartbeatResult,
    RefusalTimer,
    WorkerIdentity,
    send_heartbeat,
)
from workers.runtime.redaction import secrets
from workers.runtime.redis_connections import RedisConnections, WorkerSubscription
from workers.runtime.registration import RegisteredWorker, own_version
from workers.runtime.retries import QueuePolicy
from workers.runtime.settings import WorkerSettings

FINAL_REQUESTS_S = 5.0
"""How long a stop waits for Redis: once for the results of the last tasks, once for deregistering."""
QUICK_STOP_S = IDLE_GRACE_S + TERM_GRACE_S + KILL_GRACE_S + 2 * FINAL_REQUESTS_S
"""How long a stop takes, at most, once it no longer waits for running tasks: children end, tasks are requeued."""
NO_MAINTENANCE = "the server sends no lease_secs: lost tasks are not recovered, due retries do not run"
"""The reason that a ready worker of Go's server reports."""
REASON_MAX_CHARS = 20_000
"""A record that is longer than RECORD_MAX_BYTES can not be read, and a character may need six bytes in it."""
_BUSY = (WorkerState.DEPLOYING, WorkerState.STARTING, WorkerState.RESTARTING)

log = structlog.get_logger()


class WorkerSession:
    """One worker of one queue, while it serves."""

    def __init__(  # noqa: PLR0913 (its callbacks)
        self,
        settings: WorkerSettings,
        identity: WorkerIdentity,
        registration: RegisteredWorker,
        connections: RedisConnections,
        *,
        on_change: Callable[[], None],
        on_request: Callable[[WorkerAction], None],
    ) -> None:
        """Take over acquired connections.

        `on_change` is called when it is time to register again, `on_request` when a person wants the process to end.
        """
        # Whether the queue is disabled at the server.
        self.is_disabled = False
        # Whether Redis no longer accepts the credentials.
        self.is_refused = False
        self._settings = settings
        self._identity = identity
        self._registration = registration
        self._connections = connections
        self._on_change = on_change
        self._on_request = on_request
        # The ids of the newest requests that were carried out.
        self._answered: dict[WorkerAction, str] = {}
        self._revision = registration.revision
        # Why the newest registration is missing; empty if the present one is current.
        self._stale_reason = ""
        self._outage = BrokerOutageTimer()
        self._heartbeat_failures = FailureLog("heartbeat_resumed")
        self._beat_requested = asyncio.Event()
        self._reported: tuple[object, ...] = ()
        # Why it drains; empty if it does not.
        self._drain_reason = ""
        self._is_stopping = False
        self._refusals = RefusalTimer()
        self._listener = WorkerSubscription(new_wake_token(identity.instance_id), self._receive)
        self.consumer = Consumer(
            connections,
            self._consume_config(registration),
            on_state_change=self._state_changed,
            on_refused=self._request_refused,
        )
        self.deployments = DeploymentManager(settings, self.consumer, worker_id=identity.worker_id)
        self._heartbeat_task = asyncio.ensure_future(self._run_heartbeats())

    async def open(self) -> None:
        await self._connections.listen(self._listener)

    async def adopt(self, registration: RegisteredWorker, connections: RedisConnections | None) -> None:
        """Apply a new registration, and connect to another Redis if one is given."""
        self._registration, self._revision = registration, registration.revision
        self._stale_reason = ""
        self.consumer.apply(self._consume_config(registration), connections)
        if connections is not None:
            before, self._connections = self._connections, connections
            self.is_refused = False
            before.unsubscribe(self._listener)
            await before.release()
            await connections.listen(self._listener)
            self._beat_requested.set()
        if self.is_disabled:
            self.is_disabled = False
            self.consumer.resume()

    def mark_stale(self, reason: str) -> None:
        self._stale_reason = f"could not register again: {reason}"
        self._beat_requested.set()

    def disable(self) -> None:
        """Finish the leased tasks. Dequeue no more until the queue is enabled."""
        if not self.is_disabled:
            log.warning("queue_disabled")
        self.is_disabled = True
        self.consumer.stop_dequeuing()

    @property
    def is_busy(self) -> bool:
        """Return whether it has tasks, or deploys or starts what runs them."""
        return bool(self.consumer.runs) or self.deployments.state[0] in _BUSY

    def drain(self, reason: str) -> None:
        """Dequeue no more tasks, and requeue those that have not started. `consumer.emptied` says when all have ended.

        It registers again when it needs to, because a task may run for longer than a password is valid.
        """
        if not self._is_stopping:
            self._drain_reason = reason
        self._beat_requested.set()
        self.consumer.drain()
        log.info("draining", reason=reason, tasks=len(self.consumer.runs))

    async def close(self, stop_now: asyncio.Event) -> None:
        """Let running tasks end within the grace period, requeue the others, and deregister."""
        self._is_stopping = True
        self._beat_requested.set()
        self.consumer.drain()
        log.info("stopping", tasks=len(self.consumer.runs))
        # Without tasks, a dequeue may still be under way. An unreachable Redis never replies to it.
        grace_s = self._settings.shutdown_timeout_s if self.consumer.runs else FINAL_REQUESTS_S
        await wait_any(self.consumer.emptied, stop_now, timeout_s=grace_s)
        await self.deployments.close()
        await wait_any(self.consumer.emptied, timeout_s=FINAL_REQUESTS_S)
        # Only now: until the last results are recorded, leases must be extended.
        self._heartbeat_task.cancel()
        with contextlib.suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(FINAL_REQUESTS_S):
                now_ns = self._connections.now_ns()
                counted = [add_run_counters(queue, counters) for queue, counters in self._take_counts().items()]
                await self._connections.leases.send_all([deregister(self._record(), now_ns=now_ns), *counted])
        await self.consumer.close()
        self._connections.unsubscribe(self._listener)
        await self._connections.release()

    def _consume_config(self, registration: RegisteredWorker) -> ConsumeConfig:
        return ConsumeConfig(
            worker_id=self._identity.worker_id,
            wake_token=self._listener.wake_token,
            concurrency=self._settings.concurrency,
            weights=tuple(QueueWeight(queue=name, priority=n) for name, n in registration.priorities.items()),
            is_strict=registration.queue.order == "strict",
            policy=QueuePolicy(
                delay_s=registration.limits.retry_delay_secs,
                max_delay_s=registration.limits.retry_max_delay_secs,
                keeps_results=registration.deployment.redis_storage,
                max_result_bytes=registration.limits.max_result_bytes,
                max_archived=registration.archive_max_tasks,
                hides_payloads=registration.deployment.hide_payloads,
            ),
            lease_s=registration.lease_s,
            max_tasks=self._settings.max_tasks or None,
            ttl_completed_s=registration.limits.ttl_completed_secs,
            active_timeout_s=registration.limits.active_timeout_secs,
            keeps_output=registration.task_output,
        )

    def _receive(self, event: WorkerEvent, subject: str) -> None:
        if event is WorkerEvent.WORK:
            self.consumer.wake()
        elif event is WorkerEvent.GAP:
            self.consumer.wake()
            self._beat_requested.set()
        elif event in (WorkerEvent.RUN_CANCELED, WorkerEvent.MARKED, WorkerEvent.CANCELED):
            self.consumer.receive_cancellation(event, subject)
        elif subject in (self._registration.queue.name, self._identity.worker_id):
            self._beat_requested.set()

    async def _run_heartbeats(self) -> None:
        """Send a heartbeat every few seconds, and immediately when the state changes."""
        while True:
            # Cleared first: a request during the heartbeat causes another one.
            self._beat_requested.clear()
            self.deployments.release_replaced()
            try:
                await self._send_heartbeat()
            except BrokerUnavailable as error:  # the consumer logs it
                self._heartbeat_failed(error)
            except Exception as error:  # noqa: BLE001 (leases must be extended whatever goes wrong)
                self._heartbeat_failures.record("heartbeat_failed", key=repr(error), exc_info=error)
            else:
                self._heartbeat_failures.record_success()
            # A third of the lease, so that leases survive two heartbeats that fail.
            await wait_any(self._beat_requested, timeout_s=min(HEARTBEAT_S, self._registration.lease_s / 3))

    async def _send_heartbeat(self) -> None:
        connections = self._connections
        await connections.measure_clock()
        record = self._record()
        self._reported = self._reportable()
        # If the heartbeat fails, all counters are undelivered.
        undelivered = counted = self._take_counts()
        try:
            lease_s = self._registration.lease_s
            runs = self.consumer.runs.values()
            result = await send_heartbeat(connections.leases, record, runs, lease_s=lease_s, counted=counted)
            undelivered = result.undelivered
        finally:
            self.consumer.counts.restore(undelivered)
        self._outage.reset()
        self._apply(result)

    def _take_counts(self) -> Mapping[str, RunCounters]:
        return self.consumer.counts.take(self.consumer.config.queues)

    def _heartbeat_failed(self, error: BrokerUnavailable) -> None:
        """Register again once an outage has lasted as long as a lease: other workers may have the tasks by then."""
        if isinstance(error, BrokerRefused):
            self._request_refused()
        if self._outage.should_reregister(self._registration.lease_s):
            log.warning("broker_silent")
            self._on_change()

    def _request_refused(self) -> None:
        """Register again: the password or the queue may have changed."""
        # A user of the worker's own may be missing after a restart of Redis, until maintenance recreates it.
        is_own_user = is_worker_user(self._registration.redis.username)
        if self._refusals.should_reregister() or not (self.is_refused or is_own_user):
            self.is_refused = True
            self._on_change()

    def _apply(self, result: HeartbeatResult) -> None:
        if result.is_refused:
            self._request_refused()
        for action, request_id in result.requested.items():
            if self._answered.get(action) != request_id:
                self._answered[action] = request_id
                self._carry_out(action)
        for extension in result.extensions:
            self.consumer.apply_extension(extension)
        if result.revision is not None and result.revision != self._revision:
            if self._revision:  # else the server sent none, and the first one that is read is no change
                self._on_change()
            self._revision = result.revision

    def _carry_out(self, action: WorkerAction) -> None:
        if action is WorkerAction.RESTART:
            self.deployments.restart_children()
        elif action is WorkerAction.TAKE_TURN:
            self.deployments.take_turn()
        else:
            self._on_request(action)

    def _state_changed(self) -> None:
        if self._reported != self._reportable():
            self._beat_requested.set()

    def _reportable(self) -> tuple[object, ...]:
        """Return what is reported at once when it changes. Rollouts wait for what concerns releases."""
        deployments = self.deployments
        deployments.note_release()
        has_died = self.consumer.counts.of_release(deployments.release).deaths > 0
        return (*self._state(), deployments.release, deployments.failed_release, has_died, deployments.replacement)

    def _state(self) -> tuple[WorkerState, str]:
        """Return the state that the worker reports, and the reason, redacted."""
        if self._is_stopping:
            return WorkerState.STOPPING, self._drain_reason or "the worker is stopping"
        if self._drain_reason:
            return WorkerState.DRAINING, self._drain_reason
        if self.is_disabled:
            return WorkerState.DRAINING, "the queue is disabled"
        state, reason = self.deployments.state
        if state is WorkerState.READY and self.consumer.refusal:
            state, reason = WorkerState.STARTING, f"Redis refuses its dequeues: {self.consumer.refusal}"
            reason = "; ".join(filter(None, (reason, self._stale_reason)))
        elif state is WorkerState.READY and not self._registration.has_maintenance:
            reason = "; ".join(filter(None, (reason or self._stale_reason, NO_MAINTENANCE)))
        return state, shorten(secrets.redact(reason or self._stale_reason), REASON_MAX_CHARS)

    def _record(self) -> WorkerRecord:
        state, reason = self._state()
        identity, registration, counts = self._identity, self._registration, self.consumer.counts
        settings = self._settings
        shared_deaths = counts.recent_shared_deaths
        deployments = self.deployments
        deployments.note_release()
        deployed, of_release = deployments.deployed, counts.of_release(deployments.release)
        failure = deployments.failure
        return WorkerRecord(
            worker_id=identity.worker_id,
            host=identity.host,
            pid=identity.pid,
            server_id=identity.server_id,
            queue=registration.queue.name,
            redis_queues=registration.priorities,
            is_strict=registration.queue.order == "strict",
            concurrency=self.consumer.slots or min(settings.processes, settings.concurrency or settings.processes),
            processes=settings.processes,
            started_at_s=identity.started_at_s,
            version=own_version(),
            state=state,
            reason=reason,
            commit=deployed.commit if deployed else "",
            commit_subject=secrets.redact(deployed.info.subject) if deployed else "",
            commit_author=secrets.redact(deployed.info.author) if deployed else "",
            committed_at_s=deployed.info.committed_at_s if deployed else 0,
            revision=registration.revision,
            release=deployments.release,
            failed_release=deployments.failed_release,
            failed_commit=failure.commit,
            failed_subject=secrets.redact(failure.info.subject),
            failed_author=secrets.redact(failure.info.author),
            failed_committed_at_s=failure.info.committed_at_s,
            failed_step=failure.step,
            release_runs=of_release.runs,
            release_failures=of_release.failures,
            release_deaths=of_release.deaths,
            replacement=deployments.replacement,
            replacement_s=deployments.replacement_s,
            startup_s=deployments.startup_s,
            child_memory_bytes=deployments.pool.memory_bytes if deployments.pool else 0,
            last_take_s=self.consumer.last_take_s,
            free_slots=self.consumer.free_slots,
            mean_running=counts.mean_running,
            mean_batch=counts.mean_batch,
            shared_deaths=len(shared_deaths),
            shared_death_tasks=min(shared_deaths, default=0),
        )
