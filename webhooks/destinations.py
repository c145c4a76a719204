"""Where a message goes, and who signs it: read when it is sent, since URLs, secrets and rules change.

E-mails are sent by the mail server of the settings.
"""

import asyncio
import json
import smtplib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from django.conf import settings
from django.core.mail import EmailMessage, get_connection

from queues.models import Queue
from queues.webhook_urls import find_host_error
from runqy.core.concurrency.threads import run_in_thread
from webhooks.models import ALERTS, Delivery, Endpoint, EndpointKind
from webhooks.transport import Outcome

_SUBJECT_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    subject: str
    text: str
    recipients: Sequence[str]
    message_id: str
    """The same whenever it is sent, so that mail servers recognize a repetition."""


async def send_mail(mail: Mail, *, timeout_s: float) -> Outcome:
    """Send an e-mail once. A mail server that hangs holds a thread of its own until the timeout of its connection."""
    began_at, error = monotonic(), ""
    try:
        async with asyncio.timeout(timeout_s):
            await run_in_thread(lambda: _send(mail, timeout_s))
    except TimeoutError:
        error = f"The mail server did not accept it within {timeout_s:g} s."
    except smtplib.SMTPRecipientsRefused as refused:
        texts = [f"{name}: {code} {text.decode(errors='replace')}" for name, (code, text) in refused.recipients.items()]
        error = f"The mail server refused {'; '.join(texts)}"
    except (smtplib.SMTPException, OSError) as failed:
        error = f"The mail server: {failed}"
    return Outcome(error=error, duration_ms=round((monotonic() - began_at) * 1000))


def _send(mail: Mail, timeout_s: float) -> None:
    message = EmailMessage(
        mail.subject[:_SUBJECT_MAX_LENGTH],
        mail.text,
        to=list(mail.recipients),
        headers={"Message-ID": f"<{mail.message_id}@runqy>", "Auto-Submitted": "auto-generated"},
        connection=get_connection(timeout=timeout_s),
    )
    message.send()


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
