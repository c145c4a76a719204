"""Tells which worker was handed out what of the vaults, and which of those that live have the current values."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Max, QuerySet

from runqy.broker.broker import Broker
from runqy.broker.heartbeats import find_workers
from runqy.errors import VaultNotFound
from runqy.publication.documents import Kind, field
from runqy.publication.models import StoredDocument
from vaults.deliveries import vault_state
from vaults.models import Vault, VaultDelivery
from vaults.names import problem_of_vault_name

__all__ = [
    "DeliveryPage",
    "DeliveryView",
    "Holder",
    "Holding",
    "list_deliveries",
    "vault_holders",
    "worker_holdings",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """A delivery as people see it."""

    record: VaultDelivery
    is_current: bool
    """Nothing of the vault was set or deleted since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPage:
    """Some deliveries of a vault, the newest first."""

    deliveries: Sequence[DeliveryView]
    end: int | None
    """The id of the last one, behind which the next page begins; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A living worker of a queue that uses a vault."""

    worker_id: str
    queue: str
    delivered_at: datetime | None
    """When it was last handed out something of the vault; None: there is no record of it."""
    is_current: bool
    """That was all that the vault says now. Its child follows once the task that runs has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a worker has of a vault that its queue uses."""

    vault: str
    versions: Mapping[str, int]
    """By the entries' keys."""
    delivered_at: datetime
    is_current: bool
    """That was all that the vault says now."""


def list_deliveries(vault: str, *, limit: int, worker_id: str = "", after: int | None = None) -> DeliveryPage:
    """Return deliveries of a vault, the newest first, of all workers or of one; without `after` the latest.

    They outlive the vault. Raises VaultNotFound where there is neither the vault nor a delivery of it.
    """
    if problem_of_vault_name(vault):  # no database knows it, and PostgreSQL fails at NUL
        raise VaultNotFound(f"No vault {vault[:80]!r}.")
    found = VaultDelivery.objects.filter(vault=vault)
    if worker_id:
        found = found.filter(worker_id=worker_id)
    if after is not None:
        found = found.filter(pk__lt=after)
    records = list(found.order_by("-pk")[: limit + 1])
    if not records and not _is_known(vault):
        raise VaultNotFound(f"No vault {vault[:80]!r}.")
    shown, state = records[:limit], _states([vault]).get(vault)
    return DeliveryPage(
        deliveries=[DeliveryView(record=record, is_current=record.state == state) for record in shown],
        end=shown[-1].pk if len(records) > limit else None,
    )


def vault_holders(broker: Broker, vault: str) -> list[Holder]:
    """Return the living workers of all queues that use a vault, by id, each with whether it has the current values.

    For "3 of 4 workers have the current values". Two round trips to Redis and three queries. Raises BrokerUnavailable.
    """
    users = {queue for queue, vaults in _vaults_of_queues().items() if vault in vaults}
    living = [record for record in find_workers(broker) if record.queue in users]
    latest = {r.worker_id: r for r in _latest(vault=vault, worker_id__in=[record.worker_id for record in living])}
    state = _states([vault]).get(vault)
    holders = []
    for record in living:
        delivery = latest.get(record.worker_id)
        holders.append(
            Holder(
                worker_id=record.worker_id,
                queue=record.queue,
                delivered_at=delivery.at if delivery else None,
                is_current=delivery is not None and delivery.state == state,
            )
        )
    return holders


def worker_holdings(worker_ids: Iterable[str]) -> dict[str, list[Holding]]:
    """Return for each of some workers what it has of the vaults that its queue uses, by the vaults' names.

    A worker without a record has an empty list. Three queries, however many workers.
    """
    found: dict[str, list[Holding]] = {worker_id: [] for worker_id in worker_ids}
    latest = list(_latest(worker_id__in=list(found)))
    if not latest:
        return found
    uses = _vaults_of_queues()
    states = _states({record.vault for record in latest})
    for record in sorted(latest, key=lambda record: record.vault):
        if record.vault in uses.get(record.queue, ()):
            found[record.worker_id].append(
                Holding(
                    vault=record.vault,
                    versions=record.versions,
                    delivered_at=record.at,
                    is_current=record.state == states.get(record.vault),
                )
            )
    return found


def _latest(**which: object) -> QuerySet[VaultDelivery]:
    """Return the latest delivery of each vault to each worker, among some."""
    newest = VaultDelivery.objects.filter(**which).values("worker_id", "vault").annotate(newest=Max("pk"))
    return VaultDelivery.objects.filter(pk__in=newest.values("newest"))


def _states(vaults: Iterable[str]) -> dict[str, str]:
    """Return the states of those among some vaults that exist."""
    versions: defaultdict[str, dict[str, int]] = defaultdict(dict)
    names = Vault.objects.filter(name__in=list(vaults))
    for name, key, version in names.values_list("name", "entries__key", "entries__version"):
        versions[name] |= {key: version} if key is not None else {}
    return {name: vault_state(entries) for name, entries in versions.items()}


def _vaults_of_queues() -> dict[str, frozenset[str]]:
    """Return the vaults that each queue uses, its git token's included."""
    queues = StoredDocument.objects.filter(kind=Kind.QUEUE, body__isnull=False).values_list("name", "uses")
    prefix = field(Kind.VAULT, "")
    return {
        name: frozenset(use.removeprefix(prefix) for use in uses if use.startswith(prefix)) for name, uses in queues
    }


def _is_known(vault: str) -> bool:
    """Tell whether there is a vault, or was one that something was handed out of."""
    return Vault.objects.filter(name=vault).exists() or VaultDelivery.objects.filter(vault=vault).exists()
