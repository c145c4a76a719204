"""What becomes of batches when the API key that created them is revoked."""

from collections.abc import Sequence

from django.db.models import Q

from batches.models import Batch
from batches.queries import find_owner, sum_waiting_members
from runqy.accounts.operations import register_key_batches
from runqy.audit.actors import Actor, ActorKind
from runqy.maintenance.wakeups import wake_duty
from runqy.redis_connection import get_broker


def count_members(key_ids: Sequence[int]) -> int:
    return sum_waiting_members(Q(owner__in=_owners(key_ids), batch__is_canceled=False)).count


def cancel(key_ids: Sequence[int]) -> int:
    """Cancel all at once: they may be very many. Maintenance ends those without members too."""
    unended = Batch.objects.filter(owner__in=_owners(key_ids), ended_at=None, is_canceled=False)
    # In the order in which the ends of members lock them.
    list(unended.order_by("pk").select_for_update().values_list("pk", flat=True))
    wake_duty("batches")
    return unended.update(is_closed=True, is_canceled=True, busy_until=get_broker().now())


def _owners(key_ids: Sequence[int]) -> list[str]:
    return [find_owner(Actor(kind=ActorKind.KEY, name="", id=str(key_id))) for key_id in key_ids]


register_key_batches(count_members, cancel)
