"""What an endpoint may be: its queues, URL, recipients, events and headers."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from queues.catalog import AllowedQueues
from queues.definitions import ALL_QUEUES
from queues.models import Queue
from queues.webhook_urls import WebhookUrl, find_address_error, list_literal_addresses, parse_url
from runqy.accounts.queries import find_queue_of_sub_queue
from runqy.core.database.errors import model_errors
from runqy.errors import KeyInsufficient, QueueNotFound, WebhookInvalid
from webhooks.models import ALERT_EVENTS, Endpoint, EndpointEvent, EndpointKind
from webhooks.queries import is_within

QUEUES_MAX = 100
RECIPIENTS_MAX = 50
ENDPOINTS_OF_KEY_MAX, ENDPOINTS_OF_QUEUE_MAX = 100, 100
"""How many endpoints a key can create, and how many can name a queue. Those that exist already stay."""
HEADERS_MAX, HEADER_VALUE_MAX_LENGTH = 20, 4096
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_RESERVED_HEADERS = {
    *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive"),
    *("proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "user-agent"),
}


def set_scope(
    row: Endpoint, *, queues: Sequence[str], events: Sequence[str], allowed_queues: AllowedQueues, revision: int
) -> None:
    """Set queues and events. Queues that it covered already are covered from then on. Raise KeyInsufficient,
    QueueNotFound, WebhookInvalid.
    """
    row.queues, row.events = sorted({*queues}), [event for event in EndpointEvent if event in events]
    if allowed_queues is not None and not row.queues:
        raise KeyInsufficient("queues: This key is limited to queues. Name some of these.")
    if not is_within(row.queues, allowed_queues):
        raise QueueNotFound("queues: There is no such queue, or this key may not use it.")
    added = {*row.queues} - row.since.keys()
    if unknown := added - {*Queue.objects.filter(name__in=added).values_list("name", flat=True)}:
        raise WebhookInvalid(errors=[f"queues: {_explain_unknown(name)}" for name in sorted(unknown)])
    known, names = row.since, row.queues or [ALL_QUEUES]
    kept = {name: since for name, since in known.items() if not row.queues or name in names}
    row.since = kept | {name: known.get(name, known.get(ALL_QUEUES, revision)) for name in names}


def _explain_unknown(name: str) -> str:
    if queue := find_queue_of_sub_queue(name):
        return f"{name} is a sub-queue; endpoints are limited to whole queues: name {queue}."
    return f"No queue {name[:128]!r}."


def validate(
    row: Endpoint, headers: Mapping[str, str] | None, *, known_url: str = "", allowed_queues: AllowedQueues
) -> None:
    """Raise WebhookInvalid, and KeyInsufficient for e-mail: a key that is limited to queues must not send any.

    `known_url` is the stored one. It may stay if its network is not open any more.
    """
    errors = model_errors(row, exclude=["secret", "headers"])
    if not row.events:
        errors.append(f"events: Name at least one of {', '.join(EndpointEvent)}.")
    if len(row.queues) > QUEUES_MAX:
        errors.append(f"queues: At most {QUEUES_MAX}; leave it empty for all.")
    errors += (
        _email_errors(row)
        if row.kind == EndpointKind.EMAIL
        else _url_errors(row, is_new=not errors and row.url != known_url)
    )
    if row.levels and not {*ALERT_EVENTS}.intersection(row.events):
        errors.append("levels: Only alerts have levels.")
    if row.kind != EndpointKind.WEBHOOK and not {*ALERT_EVENTS}.issuperset(row.events):
        errors.append(f"events: An endpoint of the kind {row.kind} is told only of {' and '.join(ALERT_EVENTS)}.")
    if row.kind != EndpointKind.WEBHOOK and headers:
        errors.append("headers: Only webhooks have headers.")
    errors += _header_errors(headers or {})
    if errors:
        raise WebhookInvalid(errors=errors)
    if row.kind == EndpointKind.EMAIL and allowed_queues is not None:
        raise KeyInsufficient("kind: A key that is limited to queues sends no e-mail.")


def refuse_too_many(row: Endpoint, added_queues: Collection[str]) -> None:
    """Raise WebhookInvalid if the key that creates an endpoint, or a queue that it adds, has enough of them."""
    errors = []
    key = row.created_by_key_id
    is_new = row.created_at is None
    if is_new and key and Endpoint.objects.filter(created_by_key=key).count() >= ENDPOINTS_OF_KEY_MAX:
        errors.append(f"This key has created {ENDPOINTS_OF_KEY_MAX} endpoints: delete some first.")
    others = Endpoint.objects.exclude(pk=row.pk).order_by().values_list("queues", flat=True)
    counts = Counter(name for queues in others for name in queues) if added_queues else Counter()
    errors += [
        f"queues: {name} has {ENDPOINTS_OF_QUEUE_MAX} endpoints: delete some first."
        for name in sorted(added_queues)
        if counts[name] >= ENDPOINTS_OF_QUEUE_MAX
    ]
    if errors:
        raise WebhookInvalid(errors=errors)


def refuse_headers_of_other_host(row: Endpoint, known_url: str) -> None:
    """Raise WebhookInvalid if headers that nobody can read would be sent to another host than they were stored for."""
    if row.header_names and parse_url(row.url) != parse_url(known_url):
        raise WebhookInvalid(errors=[f"headers: Enter {', '.join(row.header_names)} again, for the other host."])


def _url_errors(row: Endpoint, *, is_new: bool) -> list[str]:
    errors = ["recipients: Only e-mail has recipients."] if row.recipients else []
    if not row.url:
        errors.append("url: This field is required.")
    elif is_new and (error := _find_url_error(parse_url(row.url))):
        errors.append(f"url: {error}")
    return errors


def _find_url_error(url: WebhookUrl) -> str:
    """Return why nothing could ever be sent to a URL. What a name resolves to is checked before each message."""
    networks = settings.RUNQY_WEBHOOK_NETWORKS
    if not url.is_https and not networks:
        return "Must begin with https://. RUNQY_WEBHOOK_NETWORKS opens networks to http."
    return find_address_error(url, list_literal_addresses(url), networks)


def _email_errors(row: Endpoint) -> list[str]:
    errors = ["url: E-mail has recipients in place of a URL."] if row.url else []
    if not settings.EMAIL_HOST:
        errors.append("kind: The server sends no e-mail: EMAIL_HOST is not set.")
    if not 1 <= len(row.recipients) <= RECIPIENTS_MAX:
        errors.append(f"recipients: Name 1 to {RECIPIENTS_MAX} addresses.")
    for address in row.recipients:
        try:
            validate_email(address)
        except ValidationError:
            errors.append(f"recipients: {address[:128]!r} is not an address.")
    return errors


def _header_errors(headers: Mapping[str, str]) -> list[str]:
    errors = [] if len(headers) <= HEADERS_MAX else [f"headers: At most {HEADERS_MAX}."]
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            errors.append(f"headers.{name[:64]}: Not a name of a header.")
        elif name.lower() in _RESERVED_HEADERS or name.lower().startswith("webhook-"):
            errors.append(f"headers.{name}: This header is set by the server.")
        elif not _HEADER_VALUE.fullmatch(value) or len(value) > HEADER_VALUE_MAX_LENGTH:
            errors.append(f"headers.{name}: Must be 1 to {HEADER_VALUE_MAX_LENGTH} printable ASCII characters.")
    return errors
