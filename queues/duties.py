"""The maintenance duties of queues."""

from queues.deletion import finish_deletions
from queues.demand import record_demand
from queues.existing_queues import publish_existing_queues
from queues.operations import republish_configuration
from queues.replacements import continue_replacements
from queues.rollouts import advance_rollouts, make_first_releases
from runqy.broker.broker import Broker
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import ConfigurationUnavailable
from runqy.maintenance.base import DatabaseDuty, register
from runqy.maintenance.failed_rows import RowFailures


@register
class Republisher(DatabaseDuty):
    """Publish the configuration that Redis has lost or never received."""

    name = "republisher"
    interval_s = 10.0

    def run(self, broker: Broker) -> None:
        republish_configuration()


@register
class DeletionFinisher(DatabaseDuty):
    """Finish deletions of queues that were interrupted."""

    name = "deletion_finisher"
    interval_s = 5.0

    def run(self, broker: Broker) -> None:
        finish_deletions(broker)


@register
class RolloutRunner(DatabaseDuty):
    """Take the next step of each release that is rolling out."""

    name = "rollouts"
    interval_s = 0.5

    def run(self, broker: Broker) -> None:
        # A rollback is to be over within seconds, and takes a step for each part of the workers.
        self.interval_s = 0.2 if advance_rollouts(broker) else RolloutRunner.interval_s


@register
class ReplacementRunner(DatabaseDuty):
    """Let workers whose environment has changed replace their processes, some at a time."""

    name = "replacements"
    interval_s = 2.0

    def run(self, broker: Broker) -> None:
        self.interval_s = 0.5 if continue_replacements(broker) else ReplacementRunner.interval_s


@register
class FirstReleaser(DatabaseDuty):
    """Make the commit that a worker runs the first release of its queue."""

    name = "first_releases"
    interval_s = 5.0

    def run(self, broker: Broker) -> None:
        make_first_releases(broker)


@register
class ExistingQueuePublisher(DatabaseDuty):
    """Publish which Redis queues exist under other names of a queue, so that workers serve them."""

    name = "existing_queues"
    interval_s = 5.0

    def run(self, broker: Broker) -> None:
        publish_existing_queues(broker)


@register
class DemandRecorder(DatabaseDuty):
    """Record counters and workers of all queues, from which their demand is computed."""

    name = "demand_recorder"
    interval_s = 5.0

    def __init__(self) -> None:
        # Never read, so that demand is recorded without the database.
        self._rows = RowFailures("demand")
        self._records = FailureLog("demand_recorded")

    def run(self, broker: Broker) -> None:
        try:
            record_demand(broker, self._rows)
        except ConfigurationUnavailable as error:
            self._records.record("demand_not_recorded", key=error.code, error=str(error))
        else:
            self._records.record_success()
