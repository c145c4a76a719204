"""Make the messages to endpoints and other targets, each once, with its id, and as its kind receives it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from django.conf import settings

from runqy.maintenance.wakeups import wake_duty
from webhooks.models import ALERTS, TOLD, Delivery, Endpoint, EndpointEvent, EndpointKind

_ID_DIGITS = 40


def message_id(*parts: str) -> str:
    """Return the id of the message about something, the same whenever it is made."""
    digest = hashlib.sha256(b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts))
    return f"msg_{digest.hexdigest()[:_ID_DIGITS]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageText:
    """What people read of a message."""

    title: str
    lines: Sequence[str] = ()
    url: str = ""
    """Where to read more; empty if the server does not know its own URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """That an alert opened or was resolved."""

    event: EndpointEvent
    message_id: str
    level: str
    queue: str
    about_endpoint: str = ""
    """The id of the endpoint that it is about, which is not told; empty if it is about something else."""
    data: object
    text: MessageText


def build_delivery(  # noqa: PLR0913 (what describes a message)
    *,
    message: str,
    event: str,
    data: object,
    now: datetime,
    at: datetime | None = None,
    endpoint: Endpoint | None = None,
    target: str = "",
    url: str = "",
    queue: str = "",
    task_id: str = "",
    after: Delivery | None = None,
    text: MessageText | None = None,
) -> Delivery:
    """Return a message to an endpoint, or to a `target` without one, to be saved. `at` is when it happened."""
    body = render(endpoint, text) if text else None
    if body is None:
        body = msgspec.json.encode({"type": event, "timestamp": at or now, "data": data}).decode()
    return Delivery(
        endpoint=endpoint,
        target=endpoint.get_target(event) if endpoint else target,
        url=url,
        message_id=message,
        event=event,
        queue=queue,
        task_id=task_id,
        body=body,
        body_bytes=len(body.encode()),
        created_at=now,
        due_at=now,
        after=after,
    )


def save_deliveries(deliveries: Iterable[Delivery]) -> None:
    """Save messages; those that exist are not sent again."""
    Delivery.objects.bulk_create(deliveries, ignore_conflicts=True, batch_size=500)
    wake_duty("webhook_sender")


def schedule_batch_ended(*, batch_id: str, queues: Sequence[str], data: object, now: datetime) -> None:
    """Tell the endpoints that cover all queues of a batch that it has ended, as only keys of all may read it.

    A second call changes nothing.
    """
    message = message_id("batch", batch_id, EndpointEvent.BATCH_ENDED)
    save_deliveries(
        build_delivery(endpoint=row, message=message, event=EndpointEvent.BATCH_ENDED, data=data, now=now)
        for row in Endpoint.objects.filter(TOLD)
        if EndpointEvent.BATCH_ENDED in row.events and (not row.queues or {*row.queues}.issuperset(queues))
    )


def schedule_alert(alert: AlertMessage, *, previous: Mapping[str | None, Delivery], now: datetime) -> list[Delivery]:
    """Store a message to each endpoint that wants it, and to that of the settings. `previous` are the last messages
    about the alert, by endpoint, None for that of the settings, which are sent before.
    """
    wanted = _list_told_of(alert)
    targets: list[Endpoint | None] = [*wanted, *([None] if settings.RUNQY_ALERT_WEBHOOK_URL else [])]
    deliveries = [
        build_delivery(
            endpoint=endpoint,
            target=ALERTS,
            message=alert.message_id,
            event=alert.event,
            queue=alert.queue,
            data=alert.data,
            text=alert.text,
            now=now,
            after=previous.get(endpoint.pk if endpoint else None),
        )
        for endpoint in targets
    ]
    for delivery in deliveries:
        delivery.save()
    return deliveries


def _list_told_of(alert: AlertMessage) -> list[Endpoint]:
    """Return the endpoints that want an alert; if only the one that it is about does, those that want other levels."""
    others = [
        row
        for row in Endpoint.objects.filter(TOLD).exclude(pk=alert.about_endpoint)
        if alert.event in row.events and (not row.queues or alert.queue in row.queues)
    ]
    wanted = [row for row in others if not row.levels or alert.level in row.levels]
    return wanted or (others if alert.about_endpoint else [])


def render(endpoint: Endpoint | None, text: MessageText) -> str | None:
    """Return the text of a message as an endpoint receives it; None if it receives data."""
    if endpoint is None or endpoint.kind == EndpointKind.WEBHOOK:
        return None
    title = " ".join(text.title.split())
    if endpoint.kind == EndpointKind.EMAIL:
        return "\n".join([title, "", *text.lines, *([text.url] if text.url else [])])
    link = [f"<{_escape(text.url)}|Details>"] if text.url else []
    lines = [f"*{_escape(title)}*", *map(_escape, text.lines), *link]
    return msgspec.json.encode({"text": "\n".join(lines)}).decode()


def _escape(text: str) -> str:
    """Escape what Slack would read as a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
