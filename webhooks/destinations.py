"""Where a message goes, and who signs it: read when it is sent, since URLs, secrets and rules change."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from queues.models import Queue
from queues.webhook_urls import find_host_error
from webhooks.mail import Mail
from webhooks.models import ALERTS, Delivery, Endpoint, EndpointKind


class NotAllowed(Exception):
    """The message may not be sent, now or later."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a message goes, and who signs it."""

    url: str
    secrets: Iterable[str]
    headers: Mapping[str, str]
    is_trusted: bool = False


class Destinations:
    """Those of messages that are sent at the same moment: secrets of each are decrypted once."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._known: dict[tuple[str, str], Destination] = {}

    def find(self, delivery: Delivery) -> Destination | Mail:
        """Raise NotAllowed, VaultLocked, VaultUnavailable."""
        if delivery.endpoint is not None and delivery.endpoint.secret is None:
            return _build_mail(delivery, delivery.endpoint)
        key = (delivery.target, delivery.url)
        if key not in self._known:
            self._known[key] = _find_destination(delivery, self._now)
        return self._known[key]


def _find_destination(delivery: Delivery, now: datetime) -> Destination:
    if delivery.endpoint is not None:
        return _find_endpoint_destination(delivery.endpoint, now)
    if delivery.target == ALERTS:
        if not (url := settings.RUNQY_ALERT_WEBHOOK_URL):
            raise NotAllowed("RUNQY_ALERT_WEBHOOK_URL is not set.")
        secret = settings.RUNQY_ALERT_WEBHOOK_SECRET
        return Destination(url, [secret] if secret else [], {}, is_trusted=True)
    return _find_task_destination(delivery, now)


def _build_mail(delivery: Delivery, endpoint: Endpoint) -> Mail:
    if not settings.EMAIL_HOST:
        raise NotAllowed("The server sends no e-mail: EMAIL_HOST is not set.")
    subject, _, text = delivery.body.partition("\n")
    message_id = f"{delivery.message_id}.{endpoint.pk}"
    return Mail(subject=f"[runqy] {subject}", text=text, recipients=endpoint.recipients, message_id=message_id)


def _find_endpoint_destination(endpoint: Endpoint, now: datetime) -> Destination:
    if endpoint.secret is None:
        raise NotAllowed("The endpoint has no secret.")
    if endpoint.kind == EndpointKind.SLACK:
        return Destination(endpoint.secret.unseal(), [], {})
    headers = json.loads(endpoint.headers.unseal()) if endpoint.headers else {}
    return Destination(endpoint.url, endpoint.secret.unseal_valid(now), headers)


def _find_task_destination(delivery: Delivery, now: datetime) -> Destination:
    queue = Queue.objects.select_related("webhook_secret").filter(name=delivery.queue).first()
    if queue is None:
        raise NotAllowed(f"The queue {delivery.queue} was deleted.")
    try:
        # Again: the URL was in Redis, where workers write.
        error = find_host_error(delivery.url, queue.webhook_hosts)
    except ValueError as invalid:
        error = str(invalid)
    if error or queue.webhook_secret is None:
        raise NotAllowed(error)
    return Destination(delivery.url, queue.webhook_secret.unseal_valid(now), {})
