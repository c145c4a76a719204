"""What a worker has once it is registered for a queue: tasks it holds, children, and the heartbeat."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import structlog

from runqy.broker.dequeue import QueueWeight
from runqy.broker.heartbeats import clear
from runqy.broker.notices import Notice
from runqy.broker.redis_users import is_worker_user, new_wake_token
from runqy.broker.timing import HEARTBEAT_S
from runqy.broker.worker_records import WorkerRecord, WorkerState
from runqy.errors import BrokerRefused, BrokerUnavailable
from workers.runtime.concurrency import wait_any
from workers.runtime.consumer import Consumer
from workers.runtime.deployments import DeploymentManager
from workers.runtime.heartbeat import (
    BrokerOutageTimer,
    HeartbeatResult,
    RefusalTimer,
    WorkerIdentity,
    new_record,
    send_heartbeat,
)
from workers.runtime.redis_connections import Listener, RedisConnections
from workers.runtime.registration import Registration
from workers.runtime.round_trip import ConsumeConfig
from workers.runtime.runs import RetryPolicy
from workers.runtime.settings import WorkerSettings

FINAL_REQUESTS_S = 5.0
"""How long Redis may take to record how the last tasks ended."""

log = structlog.get_logger()


class Session:
    """One worker for one queue, while it serves."""

    def __init__(
        self,
        settings: WorkerSettings,
        identity: WorkerIdentity,
        registration: Registration,
        connections: RedisConnections,
        on_change: Callable[[], None],
    ) -> None:
        """Take over acquired connections, and what to call when registering again is due."""
        self.is_disabled = False
        """The server says that the queue hands out nothing."""
        self.is_refused = False
        """Redis no longer accepts our credentials."""
        self._settings = settings
        self._identity = identity
        self._registration = registration
        self._connections = connections
        self._on_change = on_change
        self._token = registration.token
        self._stale_because = ""
        """Why the newest registration is not there yet; empty: it is, or none was asked for."""
        self._outage = BrokerOutageTimer()
        self._beat_now = asyncio.Event()
        self._reported: tuple[WorkerState, str] | None = None
        self._is_draining = False
        self._refusals = RefusalTimer()
        self._listener = Listener(new_wake_token(identity.instance_id), self._receive)
        self.consumer = Consumer(
            connections,
            self._consume_config(registration),
            on_pool_change=self._note_pool,
            on_refused=self._note_refusal,
        )
        self.deployments = DeploymentManager(settings, self.consumer, worker_id=identity.worker_id)
        self._beating = asyncio.ensure_future(self._beat_forever())

    async def open(self) -> None:
        """Listen for wake-ups."""
        await self._connections.listen(self._listener)

    async def adopt(self, registration: Registration, connections: RedisConnections | None) -> None:
        """Go on with a new registration, and with another Redis if one is given."""
        self._registration, self._token = registration, registration.token
        self._stale_because = ""
        self.consumer.config = self._consume_config(registration)
        if connections is not None:
            before, self._connections = self._connections, connections
            self.is_refused = False
            self.consumer.use(connections)
            before.stop_listening(self._listener)
            await before.release()
            await connections.listen(self._listener)
            self._beat_now.set()
        if self.is_disabled:
            self.is_disabled = False
            self.consumer.resume()

    def note_stale_registration(self, reason: str) -> None:
        """Report why what runs is not what the server would say now."""
        self._stale_because = f"could not register again: {reason}"
        self._beat_now.set()

    def disable(self) -> None:
        """Finish the tasks that are held and take no more until the queue is enabled."""
        if not self.is_disabled:
            log.warning("queue_disabled")
        self.is_disabled = True
        self.consumer.stop_taking()

    async def close(self, hurry: asyncio.Event) -> None:
        """Let running tasks end within the grace time, requeue the rest, and deregister."""
        self._is_draining = True
        self._beat_now.set()
        self.consumer.stop_taking()
        log.info("draining", tasks=len(self.consumer.held))
        # without tasks there may still be a dequeue under way, to which a Redis that is away does not reply
        grace_s = self._settings.shutdown_timeout_s if self.consumer.held else FINAL_REQUESTS_S
        await wait_any(self.consumer.emptied, hurry, timeout_s=grace_s)
        await self.deployments.close()
        await wait_any(self.consumer.emptied, timeout_s=FINAL_REQUESTS_S)
        self._beating.cancel()
        with contextlib.suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(FINAL_REQUESTS_S):
                await self._connections.leases.run(clear(self._record(), now_ns=self._connections.now_ns()))
        await self.consumer.close()
        self._connections.stop_listening(self._listener)
        await self._connections.release()

    def _consume_config(self, registration: Registration) -> ConsumeConfig:
        return ConsumeConfig(
            worker_id=self._identity.worker_id,
            wake_token=self._listener.wake_token,
            concurrency=self._settings.concurrency,
            weights=tuple(QueueWeight(queue=name, priority=n) for name, n in registration.priorities.items()),
            is_strict=registration.queue.order == "strict",
            policy=RetryPolicy(
                delay_s=registration.limits.retry_delay_secs,
                max_delay_s=registration.limits.retry_max_delay_secs,
                keeps_results=registration.deployment.redis_storage,
            ),
            lease_s=registration.lease_secs,
        )

    def _receive(self, notice: Notice, subject: str) -> None:
        """Act on what was published."""
        if notice is Notice.WORK:
            self.consumer.wake()
        elif notice is Notice.GAP:
            self.consumer.wake()
            self._beat_now.set()
        elif notice is Notice.CANCELED:
            if self.consumer.runs_task(subject):
                self._beat_now.set()  # the message may be forged; the heartbeat reads what the task itself says
        elif subject == self._registration.queue.name:
            self._beat_now.set()

    async def _beat_forever(self) -> None:
        """Send a heartbeat every few seconds, and at once when the state changes."""
        while True:
            self._beat_now.clear()
            self.deployments.release_replaced()
            try:
                await self._beat()
            except BrokerUnavailable as error:  # the consumer logs it
                self._note_missed_beat(error)
            except Exception:  # the supervisor of a loop: leases must be kept whatever went wrong
                log.exception("heartbeat_failed")
            await wait_any(self._beat_now, timeout_s=min(HEARTBEAT_S, self._registration.lease_secs / 3))

    async def _beat(self) -> None:
        """Send one heartbeat and act on its result."""
        connections = self._connections
        await connections.measure_clock()
        record = self._record()
        self._reported = record.state, record.reason
        heartbeat = send_heartbeat(record, self.consumer.held.values(), lease_s=self._registration.lease_secs)
        result = await connections.leases.run(heartbeat)
        self._outage.reset()
        self._apply(result)

    def _note_missed_beat(self, error: BrokerUnavailable) -> None:
        """Register again after an outage as long as a lease: others may take over our tasks by then."""
        if isinstance(error, BrokerRefused):
            self._note_refusal()
        if self._outage.should_reregister(self._registration.lease_secs):
            log.warning("broker_silent")
            self._on_change()

    def _note_refusal(self) -> None:
        """Register again: the password may have changed. A user of our own may only have been lost, by a restart."""
        is_own = is_worker_user(self._registration.redis.username)
        if not self.is_refused and (not is_own or self._refusals.should_reregister()):
            self.is_refused = True
            self._on_change()

    def _apply(self, result: HeartbeatResult) -> None:
        """Act on what a heartbeat returned."""
        if result.extension is not None:
            self.consumer.note_extension(result.extension)
        if result.token is not None and result.token != self._token:
            if self._token:
                self._on_change()
            self._token = result.token

    def _note_pool(self) -> None:
        if self._reported != self._state():
            self._beat_now.set()

    def _state(self) -> tuple[WorkerState, str]:
        if self._is_draining:
            return WorkerState.DRAINING, "the worker stops"
        if self.is_disabled:
            return WorkerState.DRAINING, "the queue is disabled"
        state, reason = self.deployments.state
        return state, reason or self._stale_because

    def _record(self) -> WorkerRecord:
        state, reason = self._state()
        return replace(
            new_record(self._identity, self._registration, self._settings),
            state=state,
            reason=reason,
            commit=self.deployments.commit,
            last_take_s=self.consumer.last_take_s,
        )
