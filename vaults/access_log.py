"""Records of which worker received which versions of which secrets.

Registration does not need the database: a delivery is recorded in Redis, and maintenance moves the record to the
database. A delivery that cannot be recorded is refused.
"""

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import structlog
from django.conf import settings
from django.db.models import Max, QuerySet
from django.utils import timezone

from runqy.audit.actors import ActorKind, current_actor
from runqy.broker.broker import Broker
from runqy.broker.streams import write_behind
from runqy.broker.streams.entries import StreamEntry
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.configuration.documents import signing_key
from runqy.core import signing
from runqy.core.formats.json_decoding import read_json
from runqy.errors import DeliveryNotRecorded, VaultNotFound
from runqy.maintenance.failed_rows import RowFailures
from runqy.maintenance.streams import move_entries
from runqy.redis_connection import get_broker
from vaults.entry_rules import vault_name_error
from vaults.models import Vault, VaultDelivery
from vaults.queries import list_queues_by_vault

log = structlog.get_logger()

DELIVERIES_KEPT_S = 90 * 24 * 3600
"""How long deliveries are kept if RUNQY_AUDIT_KEPT is not set."""
_failures = RowFailures("delivery of secrets")


class VaultGrant(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of one vault that a worker receives."""

    vault: str
    versions: dict[str, int]
    """Versions by entry key, without entries that another vault of the queue overrides."""
    state: str
    """`vault_state` of the whole vault."""


class _Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as it is stored in Redis."""

    id: str
    at: datetime
    worker_id: str
    queue: str
    key_id: str
    key_name: str
    address: str
    grants: Sequence[VaultGrant]


def vault_state(versions: Mapping[str, int]) -> str:
    """Return a token that changes whenever an entry of the vault is set or deleted, given the versions of all
    entries.
    """
    return hashlib.sha256(msgspec.json.encode(dict(versions), order="sorted")).hexdigest()[:32]


def record_delivery(*, worker_id: str, queue: str, grants: Sequence[VaultGrant]) -> None:
    """Record what the current worker is about to receive.

    Raise BrokerUnavailable, or DeliveryNotRecorded if too many records wait for the database.
    """
    actor = current_actor()
    broker = get_broker()
    delivery = _Delivery(
        id=secrets.token_hex(16),
        at=broker.now(),
        worker_id=worker_id,
        queue=queue,
        key_id=actor.id if actor.kind == ActorKind.KEY else "",
        key_name=actor.name,
        address=actor.address,
        grants=grants,
    )
    if not broker.run(write_behind.record_delivery(_signed(msgspec.json.encode(delivery)))):
        raise DeliveryNotRecorded


def store_deliveries() -> int:
    """Move the records from Redis to the database; return how many. Raise BrokerUnavailable, DatabaseError."""

    def store(entries: Sequence[StreamEntry]) -> None:
        VaultDelivery.objects.bulk_create([row for entry in entries for row in _rows(entry)], ignore_conflicts=True)

    return move_entries(get_broker(), write_behind.read_deliveries, write_behind.delete_deliveries, store, _failures)


def find_old_deliveries() -> QuerySet[VaultDelivery]:
    """Return records older than RUNQY_AUDIT_KEPT, but not those of live workers. Raise BrokerUnavailable."""
    until = timezone.now() - timedelta(seconds=settings.RUNQY_AUDIT_KEPT_S or DELIVERIES_KEPT_S)
    old = VaultDelivery.objects.filter(at__lt=until)
    # The removed setting may have kept records for longer: none goes before its operator has read the warning.
    is_kept = any(setting.name == "RUNQY_DELIVERIES_KEPT" for setting in settings.RUNQY_REMOVED)
    if is_kept or not old.exists():
        return old.none()
    live = [record.worker_id for record in list_worker_records(get_broker())]
    return old.exclude(worker_id__in=live)


def _rows(entry: StreamEntry) -> Iterable[VaultDelivery]:
    """Yield the rows of a record, one for each vault. A record with a wrong signature is logged and has none."""
    body = signing.verify(signing_key(settings.SECRET_KEY), b"runqy delivery", signed=entry.content)
    if body is None:
        log.error("delivery_refused", entry=entry.id, reason="wrong signature")
        return
    delivery = read_json(body, _Delivery)
    for grant in delivery.grants:
        yield VaultDelivery(
            delivery=delivery.id,
            at=delivery.at,
            worker_id=delivery.worker_id,
            queue=delivery.queue,
            vault=grant.vault,
            versions=grant.versions,
            state=grant.state,
            key_id=delivery.key_id,
            key_name=delivery.key_name,
            address=delivery.address,
        )


def _signed(body: bytes) -> bytes:
    # Signed, because workers may be able to write to Redis.
    return signing.sign(signing_key(settings.SECRET_KEY), b"runqy delivery", body)


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultWorker:
    """A live worker of a queue that uses a vault."""

    worker_id: str
    queue: str
    delivery: VaultDelivery | None
    """The last one; None if none is recorded."""

    @property
    def is_current(self) -> bool:
        """Whether it received the current values. Its children get them after the tasks that they are running."""
        return self.delivery is not None and self.delivery.is_current


def list_deliveries(vault: str, *, worker_id: str = "", before: int | None = None, limit: int) -> list[VaultDelivery]:
    """Return deliveries of a vault, to all workers or to one, newest first. `before` is the id of the last row seen.

    Deliveries outlive their vault. Raise VaultNotFound if neither the vault nor a delivery of it exists.
    """
    if vault_name_error(vault):  # PostgreSQL rejects NUL
        raise VaultNotFound(f"No vault {vault[:80]!r}.")
    found = VaultDelivery.objects.filter(vault=vault)
    if not found.exists():
        Vault.objects.get_named(vault)
    if worker_id:
        found = found.filter(worker_id=worker_id)
    if before is not None:
        found = found.filter(pk__lt=before)
    return _with_state(found.order_by("-pk")[:limit])


def list_vault_workers(broker: Broker, vault: str) -> list[VaultWorker]:
    """Return the live workers of all queues that use a vault, and whether each has its current values.

    Two round trips to Redis and three queries. Raise BrokerUnavailable.
    """
    queues = list_queues_by_vault().get(vault, [])
    live = [record for record in list_worker_records(broker) if record.queue in queues]
    latest = {row.worker_id: row for row in _latest(vault=vault, worker_id__in=[record.worker_id for record in live])}
    return [
        VaultWorker(worker_id=record.worker_id, queue=record.queue, delivery=latest.get(record.worker_id))
        for record in live
    ]


def get_worker_vaults(worker_ids: Iterable[str]) -> dict[str, list[VaultDelivery]]:
    """Return for each worker the last delivery of each vault of its queue, by name. Three queries in all.

    The list is empty for a worker without a record.
    """
    found: dict[str, list[VaultDelivery]] = {worker_id: [] for worker_id in worker_ids}
    if latest := _latest(worker_id__in=list(found)):
        queues = list_queues_by_vault()
        for delivery in sorted(latest, key=lambda delivery: delivery.vault):
            if delivery.queue in queues.get(delivery.vault, ()):
                found[delivery.worker_id].append(delivery)
    return found


def _latest(**which: object) -> list[VaultDelivery]:
    newest = VaultDelivery.objects.filter(**which).values("worker_id", "vault").annotate(newest=Max("pk"))
    return _with_state(VaultDelivery.objects.filter(pk__in=newest.values("newest")))


def _with_state(deliveries: Iterable[VaultDelivery]) -> list[VaultDelivery]:
    """Return deliveries after setting whether each is current, in one query more."""
    found = list(deliveries)
    versions: defaultdict[str, dict[str, int]] = defaultdict(dict)
    vaults = Vault.objects.filter(name__in={delivery.vault for delivery in found})
    for name, key, version in vaults.values_list("name", "entries__key", "entries__version"):
        versions[name] |= {key: version} if key is not None else {}
    states = {name: vault_state(entries) for name, entries in versions.items()}
    for delivery in found:
        delivery.is_current = delivery.state == states.get(delivery.vault)
    return found
