"""Lists the duties of a maintenance process."""

from django.conf import settings

from tasks.maintenance.delivery_pruner import DeliveryPruner
from tasks.maintenance.delivery_recorder import DeliveryRecorder
from tasks.maintenance.forwarder import Forwarder
from tasks.maintenance.heartbeat import Heartbeat
from tasks.maintenance.janitor import Janitor
from tasks.maintenance.lookup_sweeper import LookupSweeper
from tasks.maintenance.loops import Duty
from tasks.maintenance.orphan_finder import OrphanFinder
from tasks.maintenance.pending_timeout import PendingTimeout
from tasks.maintenance.recoverer import Recoverer
from tasks.maintenance.redis_user_keeper import RedisUserKeeper
from tasks.maintenance.remover import Remover
from tasks.maintenance.republisher import Republisher


def all_duties() -> list[Duty]:
    """Return one new duty of each kind."""
    return [
        Forwarder(),
        Recoverer(settings.RUNQY_RECOVERY_GRACE_S),
        Janitor(),
        PendingTimeout(),
        LookupSweeper(),
        OrphanFinder(),
        Republisher(),
        RedisUserKeeper(),
        DeliveryRecorder(),
        DeliveryPruner(),
        Remover(),
        Heartbeat(),
    ]
