"""What a worker has once it is registered: Redis, tasks in hand, children, and a heartbeat that ties them together."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import replace

import structlog

from runqy.broker.broker import Broker
from runqy.broker.consuming import Share
from runqy.broker.heartbeats import clear
from runqy.broker.notices import Notice
from runqy.broker.timing import HEARTBEAT_S
from runqy.broker.worker_records import WorkerRecord, WorkerState
from runqy.errors import BrokerUnavailable
from workers.runtime.consumer import Consumer
from workers.runtime.ears import Ears
from workers.runtime.exchange import Exchange
from workers.runtime.heartbeat import Identity, Pulse, make_pulse, new_record
from workers.runtime.registration import Registration
from workers.runtime.settings import WorkerSettings
from workers.runtime.settling import RetryPolicy
from workers.runtime.silence import Silence
from workers.runtime.taking import Terms
from workers.runtime.threads import first_of
from workers.runtime.workshop import Workshop

LAST_WORDS_S = 5.0
"""How long Redis may take to hear how the last tasks ended."""

log = structlog.get_logger()


class Session:
    """One worker for one queue, while it serves."""

    def __init__(
        self,
        settings: WorkerSettings,
        identity: Identity,
        registration: Registration,
        broker: Broker,
        on_change: Callable[[], None],
    ) -> None:
        self.is_disabled = False
        """The server says that the queue hands out nothing."""
        self._settings = settings
        self._identity = identity
        self._registration = registration
        self._on_change = on_change
        self._token = registration.token
        self._stale_because = ""
        """Why the newest registration is not there yet; empty: it is, or none was asked for."""
        self._silence = Silence()
        self._wake_token = secrets.token_hex(12)
        self._beat_now = asyncio.Event()
        self._said: tuple[WorkerState, str] | None = None
        self._is_draining = False
        self.exchange = Exchange(broker, on_refused=on_change)
        self.consumer = Consumer(
            self.exchange,
            self._terms(registration),
            concurrency=settings.concurrency,
            wake_token=self._wake_token,
            on_pool_change=self._note_pool,
        )
        self.workshop = Workshop(settings, self.consumer, worker_id=identity.worker_id)
        self._ears = self._new_ears(broker)
        self._beating = asyncio.ensure_future(self._beat_forever())

    async def open(self) -> None:
        """Listen for wake-ups."""
        await self._ears.open()

    async def adopt(self, registration: Registration, broker: Broker | None) -> None:
        """Go on with a new registration, and with another Redis if one is given."""
        self._registration, self._token = registration, registration.token
        self._stale_because = ""
        self.consumer.terms = self._terms(registration)
        if broker is not None:
            await self._ears.close()
            self.exchange.replace(broker)
            self._ears = self._new_ears(broker)
            await self._ears.open()
        if self.is_disabled:
            self.is_disabled = False
            self.consumer.resume()

    def go_on_meanwhile(self, reason: str) -> None:
        """Say why what runs is not what the server would say now."""
        self._stale_because = f"could not register again: {reason}"
        self._beat_now.set()

    def disable(self) -> None:
        """Finish what is in hand and take nothing more until the queue is enabled."""
        if not self.is_disabled:
            log.warning("queue_disabled")
        self.is_disabled = True
        self.consumer.stop_taking()

    async def close(self, hurry: asyncio.Event) -> None:
        """Let running tasks end within the grace time, give the rest back, and deregister."""
        self._is_draining = True
        self._beat_now.set()
        self.consumer.stop_taking()
        log.info("draining", tasks=len(self.consumer.held))
        # with nothing in hand there may still be a take under way, which a Redis that is away does not answer
        grace_s = self._settings.shutdown_timeout_s if self.consumer.held else LAST_WORDS_S
        await first_of(self.consumer.emptied, hurry, timeout_s=grace_s)
        await self.workshop.close()
        await first_of(self.consumer.emptied, timeout_s=LAST_WORDS_S)
        self._beating.cancel()
        with contextlib.suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self.exchange.run(lambda broker: broker.run(clear(self._record())))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._ears.close()
        self.consumer.close()
        self.exchange.close()

    def _terms(self, registration: Registration) -> Terms:
        return Terms(
            worker_id=self._identity.worker_id,
            shares=tuple(Share(queue=name, priority=n) for name, n in registration.priorities.items()),
            is_strict=registration.queue.order == "strict",
            policy=RetryPolicy(
                delay_s=registration.limits.retry_delay_secs,
                max_delay_s=registration.limits.retry_max_delay_secs,
                keeps_results=registration.deployment.redis_storage,
            ),
            lease_s=registration.lease_secs,
        )

    def _new_ears(self, broker: Broker) -> Ears:
        return Ears(broker, wake_token=self._wake_token, on_notice=self._hear)

    def _hear(self, notice: Notice, subject: str) -> None:
        if notice is Notice.WORK:
            self.consumer.wake()
        elif notice is Notice.GAP:
            self.consumer.wake()
            self._beat_now.set()
        elif notice is Notice.CANCELED:
            self.consumer.cancel_task(subject)
        elif subject == self._registration.queue.name:
            self._beat_now.set()

    async def _beat_forever(self) -> None:
        """Send a heartbeat every few seconds, and at once when the state changes."""
        while True:
            self._beat_now.clear()
            self.workshop.release_replaced()
            record = self._record()
            self._said = record.state, record.reason
            pulse = make_pulse(record, self.consumer.held.values(), lease_s=self._registration.lease_secs)
            try:
                self._note(await self.exchange.run(pulse))
                self._silence.end()
            except BrokerUnavailable:  # the consumer's own trips report it
                self._miss_beat()
            except Exception:  # the supervisor of a loop: leases must be kept whatever went wrong
                log.exception("heartbeat_failed")
            await first_of(self._beat_now, timeout_s=min(HEARTBEAT_S, self._registration.lease_secs / 3))

    def _miss_beat(self) -> None:
        """Ask the server where Redis is once it was silent for a lease: others may take over our tasks by then."""
        if self._silence.is_to_be_asked_about(self._registration.lease_secs):
            log.warning("broker_silent")
            self._on_change()

    def _note(self, pulse: Pulse) -> None:
        """Act on what a heartbeat learned."""
        if pulse.extension is not None:
            self.consumer.note_extension(pulse.extension)
        if pulse.token is not None and pulse.token != self._token:
            if self._token:
                self._on_change()
            self._token = pulse.token

    def _note_pool(self) -> None:
        if self._said != self._state():
            self._beat_now.set()

    def _state(self) -> tuple[WorkerState, str]:
        if self._is_draining:
            return WorkerState.DRAINING, "the worker stops"
        if self.is_disabled:
            return WorkerState.DRAINING, "the queue is disabled"
        state, reason = self.workshop.state
        return state, reason or self._stale_because

    def _record(self) -> WorkerRecord:
        state, reason = self._state()
        return replace(
            new_record(self._identity, self._registration, self._settings),
            state=state,
            reason=reason,
            commit=self.workshop.commit,
            last_take_s=self.consumer.last_take_s,
        )
