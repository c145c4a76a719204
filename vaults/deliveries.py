"""Records which worker was handed out which versions of which secrets: in Redis at once, in the database soon after.

Registering asks no database and goes on while that is away, so a delivery is noted in Redis first, and maintenance
moves the notes. What cannot be noted is not handed out: there is no secret on a worker without a record of it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from django.conf import settings
from django.utils import timezone

from runqy.audit.actors import ActorKind, current_actor
from runqy.broker import deliveries as notes
from runqy.broker.deliveries import Note
from runqy.broker.heartbeats import find_workers
from runqy.connection import get_broker
from runqy.errors import DeliveryNotRecorded
from runqy.publication.documents import signing_key
from runqy.structs import read_json
from vaults.models import VaultDelivery

__all__ = ["Share", "note_delivery", "prune_deliveries", "store_deliveries", "vault_state"]

log = structlog.get_logger()

NOTES_AT_A_TIME = 500
PRUNED_AT_A_TIME = 1000


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is handed out of one vault."""

    vault: str
    versions: dict[str, int]
    """By the entries' keys; without those that another vault of the queue overrides."""
    state: str
    """Of the whole vault. See `vault_state`."""


class _Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as it is noted."""

    id: str
    at: datetime
    worker_id: str
    queue: str
    key_id: str
    key_name: str
    address: str
    shares: Sequence[Share]


def vault_state(versions: Mapping[str, int]) -> str:
    """Return what changes with any entry of a vault that is set or deleted, given the versions of all."""
    return hashlib.sha256(msgspec.json.encode(dict(versions), order="sorted")).hexdigest()[:32]


def note_delivery(*, worker_id: str, queue: str, shares: Sequence[Share]) -> None:
    """Note what the worker that acts here is about to be handed out.

    Raises BrokerUnavailable, or DeliveryNotRecorded where too much waits for the database; then it must get nothing.
    """
    actor = current_actor()
    broker = get_broker()
    delivery = _Delivery(
        id=secrets.token_hex(16),
        at=datetime.fromtimestamp(broker.now_ns() / 1e9, UTC),
        worker_id=worker_id,
        queue=queue,
        key_id=actor.id if actor.kind == ActorKind.KEY else "",
        key_name=actor.name,
        address=actor.address,
        shares=shares,
    )
    if not broker.run(notes.note_delivery(_signed(msgspec.json.encode(delivery)))):
        raise DeliveryNotRecorded


def store_deliveries() -> int:
    """Move the notes into the database and return how many there were. Raises BrokerUnavailable.

    A note is dropped once its rows are committed; whoever reads it again meanwhile makes rows that are there already.
    """
    broker, stored = get_broker(), 0
    while found := broker.run(notes.read_deliveries(NOTES_AT_A_TIME)):
        rows = [row for note in found for row in _rows(note)]
        VaultDelivery.objects.bulk_create(rows, ignore_conflicts=True)
        broker.run(notes.forget_deliveries([note.id for note in found]))
        stored += len(found)
    return stored


def prune_deliveries() -> int:
    """Delete some records that were kept long enough, and return how many. Raises BrokerUnavailable.

    What a worker that still lives was given is kept until it is gone.
    """
    if not settings.RUNQY_DELIVERIES_KEPT_S:
        return 0
    until = timezone.now() - timedelta(seconds=settings.RUNQY_DELIVERIES_KEPT_S)
    old = VaultDelivery.objects.filter(at__lt=until)
    if not old.exists():
        return 0
    living = [record.worker_id for record in find_workers(get_broker())]
    slice_ids = list(old.exclude(worker_id__in=living).values_list("pk", flat=True)[:PRUNED_AT_A_TIME])
    return VaultDelivery.objects.filter(pk__in=slice_ids).delete()[0]


def _rows(note: Note) -> Iterable[VaultDelivery]:
    """Give the rows of a note, one for each vault; none, and a report, for one that the server did not write."""
    mac, _, body = note.content.partition(b" ")
    if not hmac.compare_digest(mac, _mac(body)):
        log.error("delivery_refused", note=note.id, reason="wrong signature")
        return
    delivery = read_json(body, _Delivery)
    for share in delivery.shares:
        yield VaultDelivery(
            delivery=delivery.id,
            at=delivery.at,
            worker_id=delivery.worker_id,
            queue=delivery.queue,
            vault=share.vault,
            versions=share.versions,
            state=share.state,
            key_id=delivery.key_id,
            key_name=delivery.key_name,
            address=delivery.address,
        )


def _signed(body: bytes) -> bytes:
    """Return a note as it stands in Redis, which workers may be able to write to."""
    return _mac(body) + b" " + body


def _mac(body: bytes) -> bytes:
    """Return the MAC of a note."""
    key = signing_key(settings.SECRET_KEY)
    return hmac.new(key, b"runqy delivery\0" + body, hashlib.sha256).hexdigest().encode()
