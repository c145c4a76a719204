"""Send what is due: this thread claims and records, an event loop on another one has the connections.

How the last attempts ended limits how many a target gets at once.
"""

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from queue import Empty, SimpleQueue
from time import monotonic, sleep

import structlog
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from queues.webhook_secrets import sign
from runqy.errors import VaultLocked, VaultUnavailable
from runqy.maintenance.failed_rows import concerns_all
from webhooks.deliveries import claim_due, record_outcomes, record_refused, release, retry_at_once
from webhooks.destinations import Destination, Destinations, Mail, NotAllowed, send_mail
from webhooks.models import Delivery
from webhooks.operations import update_endpoints_health
from webhooks.queries import list_due_targets
from webhooks.slots import DueTarget, Pool
from webhooks.transport import Message, Outcome, Resolver, Rules, send

FAILURES_MAX = 8
"""A receiver that refused so many in a row is taken for being away, not for refusing single messages."""
PROBE_EVERY_S = 5.0
_FORGET_AFTER_S = 600.0
TIMEOUT_S = 15.0
"""The time for a whole attempt, from the look-up of the host to the head of the response."""
IN_FLIGHT_ALL = 1000
ALERTS_IN_FLIGHT = 100
"""Of alerts, test messages and e-mail, besides the others."""
CLAIMED_AT_ONCE = 100
RECORDED_AT_ONCE = 100
"""In one transaction, while which other processes cannot write to SQLite."""
SCAN_EVERY_S = 0.5
GATHER_S = 0.005
"""How long to wait for more attempts that end: recorded with the first, they cost little."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


class CircuitBreaker:
    """Gives a target fewer attempts at once with each that fails; after several, one at a time, every few seconds,
    until one is accepted.

    While a receiver is away, its messages wait with most of their attempts left, and arrive as soon as it is back. In
    the memory of one process: others make their own attempts.
    """

    def __init__(self) -> None:
        self._failures: dict[str, _Failures] = {}

    def get_limit(self, target: str, limit: int) -> int:
        """Return how many attempts may be in flight now, of a target that may have so many while it accepts them."""
        failures = self._failures.get(target)
        if failures is None or failures.count < FAILURES_MAX:
            return max(limit >> (failures.count if failures else 0), 1)
        return int(monotonic() - failures.last_at >= PROBE_EVERY_S)

    def record(self, target: str, *, is_accepted: bool) -> bool:
        """Return whether a target that was taken for being away is back."""
        now = monotonic()
        if is_accepted:
            failed = self._failures.pop(target, None)
            return failed is not None and failed.count >= FAILURES_MAX
        failed = self._failures.get(target)
        self._failures[target] = _Failures(1 if failed is None else failed.count + 1, now)
        return False

    def forget_old(self) -> None:
        """Forget targets without an attempt for long: nothing is due to them, or they were deleted."""
        now = monotonic()
        self._failures = {
            target: failures for target, failures in self._failures.items() if now - failures.last_at < _FORGET_AFTER_S
        }


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A message that is in flight."""

    delivery: Delivery
    target: DueTarget


class Sender:
    """Sends what is due. What is in flight when a call ends goes on, and is recorded by the next one."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: ssl.SSLContext | None = None
        self._thread: threading.Thread | None = None
        self._in_flight: dict[Future[Outcome], _Attempt] = {}
        self._ended = SimpleQueue[Future[Outcome]]()
        self._unrecorded: list[Future[Outcome]] = []
        self._pools = {True: Pool(ALERTS_IN_FLIGHT), False: Pool(IN_FLIGHT_ALL)}  # by `DueTarget.is_alerts`
        self._due: dict[str, DueTarget] = {}
        self._scanned_until, self._scanned_at = "", float("-inf")
        self._breaker, self._resolver = CircuitBreaker(), Resolver()
        self.attempts = Counter[str]()
        """Those that ended, by outcome, until the caller clears them."""

    @property
    def is_idle(self) -> bool:
        return not self._in_flight

    def run(self, duration_s: float) -> int:
        """Send for some time, or until nothing is due and nothing in flight; return how many were accepted.

        Raise DatabaseError: what is in flight is recorded by the next call, or sent again by whoever claims it next.
        """
        until, accepted = monotonic() + duration_s, 0
        while True:
            # First, however long the rest takes: until it is recorded, nothing else has its slot.
            accepted += self._record_ended()
            self._scan()
            # Alerts first, so that they get what is free of an endpoint. Each step is bounded.
            has_begun = [self._begin(is_alerts=is_alerts) for is_alerts in (True, False)]
            left_s = until - monotonic()
            if left_s <= 0 or not (self._in_flight or any(has_begun) or self._scanned_until):
                return accepted
            if self._in_flight and not any(has_begun):
                with suppress(Empty):
                    self._unrecorded.append(self._ended.get(timeout=min(left_s, SCAN_EVERY_S)))
                    sleep(GATHER_S)

    def _record_ended(self) -> int:
        """Record what came of attempts; return how many were accepted."""
        with suppress(Empty):
            while len(self._unrecorded) < RECORDED_AT_ONCE:
                self._unrecorded.append(self._ended.get_nowait())
        ended = {future: _get_outcome(future) for future in self._unrecorded}
        if not ended:
            return 0
        now = timezone.now()
        ends = [(self._in_flight[future].delivery, outcome) for future, outcome in ended.items()]
        recorded, locked = _record(ends, now)
        self._unrecorded = [future for future in ended if self._in_flight[future].delivery.pk in locked]
        for future in self._unrecorded:  # after the others
            del ended[future]
        attempts = [(self._in_flight.pop(future), outcome) for future, outcome in ended.items()]
        for attempt, outcome in attempts:  # all of them, before the database may fail
            self._pools[attempt.target.is_alerts].remove(attempt.target)
            self.attempts["accepted" if outcome.is_accepted else "failed"] += 1
        for attempt, outcome in attempts:
            if self._breaker.record(attempt.target.target, is_accepted=outcome.is_accepted):
                retry_at_once(attempt.target.target, now)
        update_endpoints_health([(a.delivery, outcome) for a, outcome in attempts if a.delivery.pk in recorded], now)
        return sum(outcome.is_accepted for _, outcome in attempts)

    def _scan(self) -> None:
        """Find the targets that something is due to, a part of them at a time."""
        if monotonic() - self._scanned_at < SCAN_EVERY_S and self._in_flight:
            return
        found, self._scanned_until = list_due_targets(timezone.now(), after=self._scanned_until)
        self._due = {each.target: each for each in found}
        self._breaker.forget_old()
        self._scanned_at = monotonic()

    def _begin(self, *, is_alerts: bool) -> bool:
        """Send some of what is due, in free slots; return whether anything was."""
        pool, targets = self._pools[is_alerts], [each for each in self._due.values() if each.is_alerts == is_alerts]
        wanted = pool.allot(targets, self._get_limit, at_most=CLAIMED_AT_ONCE) if targets else {}
        if not wanted:
            return False
        now = timezone.now()
        claimed, destinations = claim_due(wanted, now), Destinations(now)
        counts, by_name = Counter(delivery.target for delivery in claimed), {each.target: each for each in wanted}
        for target, number in wanted.items():
            if counts[target.target] < number:
                del self._due[target.target]  # until the next scan: nothing more is due, or its slots are taken
        for delivery in claimed:
            try:
                self._start(delivery, by_name[delivery.target], destinations, now)
            except DatabaseError:
                raise
            except Exception as error:  # a bug that one message meets must not stop the others
                log.exception("webhook_not_sent", target=delivery.target, message_id=delivery.message_id)
                release(delivery, type(error).__name__, now)
        return bool(claimed)

    def _get_limit(self, target: DueTarget) -> int:
        return self._breaker.get_limit(target.target, target.limit)

    def _start(self, delivery: Delivery, target: DueTarget, destinations: Destinations, now: datetime) -> None:
        try:
            destination = destinations.find(delivery)
        except NotAllowed as error:
            record_refused(delivery, str(error), now)
            return
        except (VaultLocked, VaultUnavailable) as error:
            release(delivery, error.detail, now)
            return
        loop, context = self._get_loop()
        if isinstance(destination, Mail):
            attempt = send_mail(destination, timeout_s=TIMEOUT_S)
        else:
            attempt = send(_build_message(delivery, destination, now), _get_rules(destination), context, self._resolver)
        future = asyncio.run_coroutine_threadsafe(attempt, loop)
        self._in_flight[future] = _Attempt(delivery, target)
        self._pools[target.is_alerts].add(target)
        future.add_done_callback(self._ended.put)

    def _get_loop(self) -> tuple[asyncio.AbstractEventLoop, ssl.SSLContext]:
        if self._loop is None or self._context is None:
            # On a daemon thread: what is in flight when the process ends is sent again.
            self._loop, self._context = asyncio.new_event_loop(), ssl.create_default_context()
            self._thread = threading.Thread(target=_serve, args=[self._loop], name="runqy-webhooks", daemon=True)
            self._thread.start()
        return self._loop, self._context

    def close(self) -> None:
        """End the event loop's thread."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _get_outcome(ended: Future[Outcome]) -> Outcome:
    try:
        return ended.result()
    except Exception as error:  # a bug that one message meets must not stop the others
        log.exception("webhook_not_sent")
        return Outcome(error=type(error).__name__)


def _record(ended: Sequence[tuple[Delivery, Outcome]], now: datetime) -> tuple[set[int], set[int]]:
    """Record outcomes as `record_outcomes` does, each alone if that raises because of one."""
    try:
        return record_outcomes(ended, now)
    except Exception as error:
        if concerns_all(error):
            raise
    recorded, locked = set[int](), set[int]()
    for delivery, outcome in ended:
        of_one = _record_alone(delivery, outcome, now)
        recorded |= of_one[0]
        locked |= of_one[1]
    return recorded, locked


def _record_alone(delivery: Delivery, outcome: Outcome, now: datetime) -> tuple[set[int], set[int]]:
    for recorded in (outcome, Outcome(error="outcome_not_recorded")):  # as a failed attempt, of which there is a limit
        try:
            return record_outcomes([(delivery, recorded)], now)
        except Exception as error:  # a bug that one message meets must not stop the others
            if concerns_all(error):
                raise
            log.exception("webhook_not_recorded", target=delivery.target, message_id=delivery.message_id)
    return set(), set()  # its claim ends, and it is sent again


def _build_message(delivery: Delivery, destination: Destination, now: datetime) -> Message:
    body, timestamp_s = delivery.body.encode(), int(now.timestamp())
    headers = {
        **destination.headers,
        "content-type": "application/json",
        "user-agent": "runqy",
        "webhook-id": delivery.message_id,
        "webhook-timestamp": str(timestamp_s),
    }
    signature = sign(body, message_id=delivery.message_id, timestamp_s=timestamp_s, secrets=destination.secrets)
    if signature:
        headers["webhook-signature"] = signature
    return Message(url=destination.url, headers=headers, body=body)


def _get_rules(destination: Destination) -> Rules:
    return Rules(networks=settings.RUNQY_WEBHOOK_NETWORKS, is_trusted=destination.is_trusted, timeout_s=TIMEOUT_S)
