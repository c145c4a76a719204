"""Create, change, test and delete endpoints, rotate their secrets, and send again what was sent to them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import structlog
from django.db import transaction
from django.utils import timezone

from queues.catalog import AllowedQueues
from queues.definitions import PublishedEndpoint
from queues.webhook_secrets import create_secret, rotate_secret
from queues.webhook_urls import get_origin
from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import REDACTED, Change, diff, record
from runqy.configuration import operations as config_sync
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import configuration_change
from runqy.core.preconditions import Precondition, accept_any
from runqy.errors import (
    DeliveryNotFound,
    WebhookDisabled,
    WebhookInvalid,
)
from runqy.maintenance.failed_rows import concerns_all
from runqy.maintenance.wakeups import wake_duty
from vaults.models import SealedSecret
from vaults.sealed_secrets import store_secret
from webhooks.deliveries import FAILS_FOR, GONE, resend, withdraw
from webhooks.endpoint_rules import refuse_headers_of_other_host, refuse_too_many, set_scope, validate
from webhooks.messages import MessageText, build_delivery, message_id
from webhooks.models import CHANGED_BY_PEOPLE, IN_FLIGHT, TASK_EVENTS, Delivery, Endpoint, EndpointKind
from webhooks.queries import get_endpoint
from webhooks.transport import Outcome

TEST_EVENT = "webhook.test"
DROPPED = "It was dropped when the endpoint was enabled."
KEEP_SENDING, DROP = "send", "drop"
"""What is done with the messages that wait for an endpoint when it is enabled."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedEndpoint:
    """A new endpoint. Only here its secret exists in plain text."""

    row: Endpoint
    secret: str

    def __repr__(self) -> str:
        return f"<CreatedEndpoint {self.row.pk}>"


def create_endpoint(  # noqa: PLR0913 (what describes an endpoint)
    *,
    kind: str = EndpointKind.WEBHOOK,
    url: str = "",
    recipients: Sequence[str] = (),
    events: Sequence[str],
    queues: Sequence[str] = (),
    levels: Sequence[str] = (),
    include_result: bool = False,
    headers: Mapping[str, str] | None = None,
    is_enabled: bool = True,
    in_flight: int = IN_FLIGHT,
    allowed_queues: AllowedQueues = None,
) -> CreatedEndpoint:
    """Create an endpoint, a webhook with a new secret. It covers tasks that are enqueued from now on.

    Raise WebhookInvalid, VaultLocked, and QueueNotFound or KeyInsufficient for queues that the key may not use.
    """
    secret = ""
    with configuration_change() as change:
        row = Endpoint(kind=kind, url=url, include_result=include_result, is_enabled=is_enabled, **_creator())
        row.in_flight = in_flight
        row.recipients, row.levels = list(recipients), sorted(levels)
        set_scope(row, queues=queues, events=events, allowed_queues=allowed_queues, revision=change.revision)
        validate(row, headers, allowed_queues=allowed_queues)
        refuse_too_many(row, row.queues)
        if kind == EndpointKind.WEBHOOK:
            row.secret, secret = create_secret(is_shown=True)
        elif row.url:
            _seal_url(row)
        _set_headers(row, headers or {})
        row.save()
        _publish(change, row)
        _record("webhook.created", row, diff({}, _audited(row)))
    return CreatedEndpoint(row=row, secret=secret)


def change_endpoint(  # noqa: PLR0913 (what describes an endpoint)
    endpoint_id: str,
    *,
    url: str | None = None,
    recipients: Sequence[str] | None = None,
    events: Sequence[str] | None = None,
    queues: Sequence[str] | None = None,
    levels: Sequence[str] | None = None,
    include_result: bool | None = None,
    headers: Mapping[str, str] | None = None,
    is_enabled: bool | None = None,
    kept: str = KEEP_SENDING,
    in_flight: int | None = None,
    allowed_queues: AllowedQueues = None,
    precondition: Precondition = accept_any,
) -> Endpoint:
    """Change what is given; `headers` replaces all of them. Raise WebhookNotFound, and as `create_endpoint`.

    Headers must be given again with a URL of another host. `kept` says what happens to the messages that wait if this
    enables it. `precondition` is called with its version.
    """
    with configuration_change() as change:
        row = get_endpoint(endpoint_id, allowed_queues=allowed_queues)
        precondition(row.version)
        before, known_url, known_queues = _audited(row), row.url, {*row.queues}
        dropped = 0
        row.url = row.url if url is None else url
        row.recipients = row.recipients if recipients is None else list(recipients)
        row.levels = row.levels if levels is None else sorted(levels)
        row.include_result = row.include_result if include_result is None else include_result
        row.in_flight = row.in_flight if in_flight is None else in_flight
        if is_enabled is False:  # also what the server had disabled
            row.is_enabled, row.disabled_reason = False, ""
        elif is_enabled and not row.is_enabled:
            row.is_enabled, row.disabled_reason, row.failing_since, row.dropped = True, "", None, 0
            dropped = withdraw(row.deliveries.all(), DROPPED) if kept == DROP else 0
        set_scope(
            row,
            queues=row.queues if queues is None else queues,
            events=row.events if events is None else events,
            allowed_queues=allowed_queues,
            revision=change.revision,
        )
        validate(row, headers, known_url=known_url, allowed_queues=allowed_queues)
        if headers is None:
            refuse_headers_of_other_host(row, known_url)
        refuse_too_many(row, {*row.queues} - known_queues)
        is_url_sealed = row.kind == EndpointKind.SLACK and url is not None
        if is_url_sealed:
            _seal_url(row)
        if headers is not None:
            _set_headers(row, headers)
        row.save()
        _publish(change, row)
        changes = dict(diff(before, _audited(row)))
        changes |= {"headers": REDACTED} if headers is not None else {}
        changes |= {"url": REDACTED} if is_url_sealed else {}
        changes |= {"dropped_messages": (None, dropped)} if dropped else {}
        if changes:
            _record("webhook.updated", row, changes)
    return row


def _seal_url(row: Endpoint) -> None:
    """Keep a URL that is a secret encrypted, and its host to be shown."""
    if row.secret is None:
        row.secret = store_secret("webhook url", row.url)
    else:
        row.secret.seal(row.url)
        row.secret.save()
    row.url = get_origin(row.url)


def delete_endpoint(
    endpoint_id: str, *, allowed_queues: AllowedQueues = None, precondition: Precondition = accept_any
) -> None:
    """Delete an endpoint with its deliveries. Raise WebhookNotFound."""
    with configuration_change() as change:
        row = get_endpoint(endpoint_id, allowed_queues=allowed_queues)
        precondition(row.version)
        _record("webhook.deleted", row, diff(_audited(row), {}))
        change.forget(DocumentKind.ENDPOINT, row.pk)
        secrets = [each for each in (row.secret_id, row.headers_id) if each]
        row.delete()
        SealedSecret.objects.filter(pk__in=secrets).delete()


def rotate_endpoint_secret(endpoint_id: str, *, allowed_queues: AllowedQueues = None) -> str:
    """Give an endpoint a new secret and return it. For 24 hours messages are signed with the old one too.

    Raise WebhookNotFound, WebhookInvalid, VaultLocked.
    """
    with configuration_change():
        row = get_endpoint(endpoint_id, allowed_queues=allowed_queues)
        if row.kind != EndpointKind.WEBHOOK or row.secret is None:
            raise WebhookInvalid("Only webhooks are signed. Of Slack, change the URL.")
        secret = rotate_secret(row.secret)
        _record("webhook.secret_rotated", row, {"secret": REDACTED})
    return secret


def disable_failing_endpoint(endpoint_id: str, reason: str) -> None:
    """Disable an endpoint that accepts nothing any more. It stays published: its messages, also of what ends from now
    on, are kept until a user enables it.
    """
    with transaction.atomic():
        if not Endpoint.objects.filter(pk=endpoint_id, is_enabled=True).update(
            is_enabled=False, disabled_reason=reason
        ):
            return
        row = Endpoint.objects.get(pk=endpoint_id)
        _record("webhook.disabled", row, {"is_enabled": (True, False), "reason": (None, reason)})
    log.warning("webhook_disabled", endpoint=endpoint_id, reason=reason)


def update_endpoints_health(ends: Sequence[tuple[Delivery, Outcome]], now: datetime) -> None:
    """Remember since when endpoints fail, by what came of messages to them; disable one that says it is gone, or has
    failed for five days.
    """
    of_endpoints = [(each.endpoint_id, outcome) for each, outcome in ends if each.endpoint_id]
    accepting = {endpoint for endpoint, outcome in of_endpoints if outcome.is_accepted}
    failing = {endpoint for endpoint, _ in of_endpoints} - accepting
    if accepting:
        Endpoint.objects.filter(pk__in=accepting, failing_since__isnull=False).update(failing_since=None)
    if failing:
        rows = Endpoint.objects.filter(pk__in=failing, is_enabled=True)
        rows.filter(failing_since=None).update(failing_since=now)
        for endpoint_id in rows.filter(failing_since__lte=now - FAILS_FOR).values_list("pk", flat=True):
            _disable_alone(endpoint_id, f"It has failed for {FAILS_FOR.days} days.")
    for gone in {endpoint for endpoint, outcome in of_endpoints if outcome.status == GONE}:
        _disable_alone(gone, "It responded with status 410: gone.")


def _disable_alone(endpoint_id: str, reason: str) -> None:
    try:
        disable_failing_endpoint(endpoint_id, reason)
    except Exception as error:  # a bug that one endpoint meets must not stop the others
        if concerns_all(error):
            raise
        log.exception("webhook_not_disabled", endpoint=endpoint_id, reason=reason)


def schedule_test(endpoint_id: str, *, allowed_queues: AllowedQueues = None) -> Delivery:
    """Send a message to an endpoint that says nothing. Raise WebhookNotFound, WebhookDisabled."""
    row = get_endpoint(endpoint_id, allowed_queues=allowed_queues)
    if not row.is_enabled:
        raise WebhookDisabled
    now = timezone.now()
    delivery = build_delivery(
        endpoint=row,
        message=message_id(TEST_EVENT, row.pk, now.isoformat()),
        event=TEST_EVENT,
        data={"endpoint": row.pk},
        text=MessageText(title="Test message of runqy", lines=["Alerts will be sent here."]),
        now=now,
    )
    with transaction.atomic():
        delivery.save()
        _record("webhook.tested", row, {})
    return delivery


def resend_deliveries(
    endpoint_id: str, delivery_ids: Sequence[int] | None, *, allowed_queues: AllowedQueues = None
) -> int:
    """Send deliveries of an endpoint again, with the same ids; None: all that failed. Return how many.

    Raise WebhookNotFound, DeliveryNotFound.
    """
    row = get_endpoint(endpoint_id, allowed_queues=allowed_queues)
    if delivery_ids is None:
        found = row.deliveries.filter(abandoned_at__isnull=False)
    else:
        found = row.deliveries.filter(pk__in=delivery_ids)
        if unknown := {*delivery_ids} - {*found.values_list("pk", flat=True)}:
            raise DeliveryNotFound(f"The endpoint has no delivery {min(unknown)}.")
    with transaction.atomic():
        resent = resend(found, timezone.now())
        wake_duty("webhook_sender")
        _record("webhook.resent", row, {"deliveries": (None, resent)})
    return resent


def _set_headers(row: Endpoint, headers: Mapping[str, str]) -> None:
    row.header_names = sorted(headers)
    text = json.dumps(dict(headers), sort_keys=True)
    if row.headers is not None:
        row.headers.seal(text)
        row.headers.save()
    elif headers:
        row.headers = store_secret("webhook headers", text)


def _publish(change: config_sync.Change, row: Endpoint) -> None:
    if not (row.is_enabled or row.is_disabled_by_server) or not set(TASK_EVENTS).intersection(row.events):
        change.forget(DocumentKind.ENDPOINT, row.pk)
        return
    published = PublishedEndpoint(since=row.since, include_result=row.include_result)
    change.put(DocumentKind.ENDPOINT, row.pk, msgspec.json.encode(published, order="sorted"))


def _audited(row: Endpoint) -> dict[str, object]:
    return {name: getattr(row, name) for name in CHANGED_BY_PEOPLE}


def _record(action: str, row: Endpoint, changes: Mapping[str, Change]) -> None:
    record(action=action, object_kind="webhook", object_name=row.pk, changes=changes)


def _creator() -> Mapping[str, Any]:
    actor = current_actor()
    creator: dict[str, Any] = {"created_by_kind": actor.kind.value, "created_by": actor.name[:300]}
    return creator | ({"created_by_key_id": int(actor.id)} if actor.kind is ActorKind.KEY and actor.id else {})
