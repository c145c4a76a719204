"""Send what is due: this thread claims and records, an event loop on another one has the connections."""

import asyncio
import json
import ssl
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import structlog
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from queues.models import Queue
from queues.webhook_secrets import sign
from queues.webhook_urls import find_host_error
from runqy.errors import VaultLocked, VaultUnavailable
from webhooks.circuit_breaker import CircuitBreaker
from webhooks.deliveries import IN_FLIGHT_MAX, claim_all, record_outcomes, record_refused, release, retry_at_once
from webhooks.mail import Mail, send_mail
from webhooks.models import ALERTS, Delivery, Endpoint, EndpointKind
from webhooks.operations import update_endpoint_health
from webhooks.queries import list_due, list_due_targets, list_left, list_slots
from webhooks.transport import Message, Outcome, Rules, send

log = structlog.get_logger()

TIMEOUT_S = 15.0
"""The time for a whole attempt, from the look-up of the host to the head of the response."""
IN_FLIGHT_ALL = 1000
RECORDED_AT_ONCE = 50
"""In one transaction, while which other processes cannot write to SQLite."""
SCAN_EVERY_S = 0.5


class _NotAllowed(Exception):
    """The message may not be sent, now or later."""


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where a message goes, and who signs it."""

    url: str
    secrets: Iterable[str]
    headers: Mapping[str, str]
    is_trusted: bool = False


class Sender:
    """Sends what is due. What is in flight when a call ends goes on, and is recorded by the next one."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: ssl.SSLContext | None = None
        self._thread: threading.Thread | None = None
        self._in_flight: dict[Future[Outcome], Delivery] = {}
        self._scanned_at = float("-inf")
        self._breaker = CircuitBreaker()
        self.attempts = Counter[str]()
        """Those that ended, by outcome, until the caller clears them."""

    @property
    def is_idle(self) -> bool:
        return not self._in_flight

    def run(self, duration_s: float) -> int:
        """Send for some time, or until nothing is due and nothing in flight; return how many were accepted.

        Raise DatabaseError: what is in flight is then sent again by whoever claims it next.
        """
        until, accepted = monotonic() + duration_s, 0
        while True:
            if monotonic() - self._scanned_at >= SCAN_EVERY_S or not self._in_flight:
                for target in list_due_targets(timezone.now()):
                    self._fill(target)
                self._breaker.forget_old()
                self._scanned_at = monotonic()
            if not self._in_flight:
                return accepted
            left_s = until - monotonic()
            if left_s <= 0:
                return accepted
            ended, _ = wait(self._in_flight, min(left_s, SCAN_EVERY_S), FIRST_COMPLETED)
            accepted += self._finish([future for future in self._in_flight if future in ended][:RECORDED_AT_ONCE])

    def _finish(self, ended: Iterable[Future[Outcome]]) -> int:
        """Record what came of attempts, and send what is due to their targets; return how many were accepted."""
        ends = [(self._in_flight.pop(future), _get_outcome(future)) for future in ended]
        now = timezone.now()
        recorded = record_outcomes(ends, now)
        for delivery, outcome in ends:
            target, is_accepted = delivery.target, outcome.is_accepted
            if delivery.pk in recorded and delivery.endpoint is not None:
                update_endpoint_health(delivery.endpoint, status=outcome.status, is_accepted=is_accepted, now=now)
            if self._breaker.record(target, is_accepted=is_accepted):
                retry_at_once(target, now)
            self.attempts["accepted" if is_accepted else "failed"] += 1
        for target in {delivery.target for delivery, _ in ends}:
            self._fill(target)
        return sum(outcome.is_accepted for _, outcome in ends)

    def _fill(self, target: str) -> None:
        """Send what is due to a target, up to its limit."""
        if (limit := self._breaker.get_limit(target)) < IN_FLIGHT_MAX:
            limit -= sum(delivery.target == target for delivery in self._in_flight.values())
        if limit <= 0:
            return
        now = timezone.now()
        slots = list_slots(target)
        used = {slot for slot in slots if slot is not None}
        # First what was claimed by a process that was killed: nothing else can be sent while it has all slots.
        left = list_left(target, now) if any(due_at <= now for due_at in slots.values()) else ()
        limit = min(limit, IN_FLIGHT_ALL - len(self._in_flight))
        due = (*left, *list_due(target, now, limit=IN_FLIGHT_MAX - len(used)))[:limit]
        for delivery in claim_all(due, now, used) if due else ():
            try:
                self._start(delivery, now)
            except DatabaseError:
                raise
            except Exception as error:  # a bug that one message meets must not stop the others
                log.exception("webhook_not_sent", target=target, message_id=delivery.message_id)
                release(delivery, type(error).__name__, now)

    def _start(self, delivery: Delivery, now: datetime) -> None:
        try:
            destination = _find_destination(delivery, now)
        except _NotAllowed as error:
            record_refused(delivery, str(error), now)
            return
        except (VaultLocked, VaultUnavailable) as error:
            release(delivery, error.detail, now)
            return
        loop, context = self._get_loop()
        if isinstance(destination, Mail):
            attempt = send_mail(destination, timeout_s=TIMEOUT_S)
        else:
            attempt = send(_build_message(delivery, destination, now), _get_rules(destination), context)
        self._in_flight[asyncio.run_coroutine_threadsafe(attempt, loop)] = delivery

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
    if error := ended.exception():  # a bug that one message meets must not stop the others
        log.error("webhook_not_sent", exc_info=error)
        return Outcome(error=type(error).__name__)
    return ended.result()


def _build_message(delivery: Delivery, destination: _Destination, now: datetime) -> Message:
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


def _get_rules(destination: _Destination) -> Rules:
    return Rules(networks=settings.RUNQY_WEBHOOK_NETWORKS, is_trusted=destination.is_trusted, timeout_s=TIMEOUT_S)


def _find_destination(delivery: Delivery, now: datetime) -> _Destination | Mail:
    """Raise _NotAllowed, VaultLocked, VaultUnavailable."""
    if delivery.endpoint is not None:
        return _find_endpoint_destination(delivery, delivery.endpoint, now)
    if delivery.target == ALERTS:
        if not (url := settings.RUNQY_ALERT_WEBHOOK_URL):
            raise _NotAllowed("RUNQY_ALERT_WEBHOOK_URL is not set.")
        secret = settings.RUNQY_ALERT_WEBHOOK_SECRET
        return _Destination(url, [secret] if secret else [], {}, is_trusted=True)
    return _find_task_destination(delivery, now)


def _find_endpoint_destination(delivery: Delivery, endpoint: Endpoint, now: datetime) -> _Destination | Mail:
    if endpoint.secret is None:
        if not settings.EMAIL_HOST:
            raise _NotAllowed("The server sends no e-mail: EMAIL_HOST is not set.")
        subject, _, text = delivery.body.partition("\n")
        message_id = f"{delivery.message_id}.{endpoint.pk}"
        return Mail(subject=f"[runqy] {subject}", text=text, recipients=endpoint.recipients, message_id=message_id)
    if endpoint.kind == EndpointKind.SLACK:
        return _Destination(endpoint.secret.unseal(), [], {})
    headers = json.loads(endpoint.headers.unseal()) if endpoint.headers else {}
    return _Destination(endpoint.url, endpoint.secret.unseal_valid(now), headers)


def _find_task_destination(delivery: Delivery, now: datetime) -> _Destination:
    queue = Queue.objects.select_related("webhook_secret").filter(name=delivery.queue).first()
    if queue is None:
        raise _NotAllowed(f"The queue {delivery.queue} was deleted.")
    try:
        # Again: the URL was in Redis, where workers write.
        error = find_host_error(delivery.url, queue.webhook_hosts)
    except ValueError as invalid:
        error = str(invalid)
    if error or queue.webhook_secret is None:
        raise _NotAllowed(error)
    return _Destination(delivery.url, queue.webhook_secret.unseal_valid(now), {})
