"""Serializers of what an autoscaler asks, with an example for the schema."""

from typing import Any

from rest_framework import serializers

from queues.demand_estimates import DEFAULT_TARGET_WAIT_S, DemandReason
from runqy.api.query_parameters import DurationParameter
from runqy.api.schema import response_example
from runqy.api.serializers import BodySerializer


class DemandQuerySerializer(BodySerializer):
    """How long tasks may wait."""

    target_wait = DurationParameter(
        "How long a task may wait before it starts: seconds, or a duration such as `2m`",
        default_ns=int(DEFAULT_TARGET_WAIT_S * 10**9),
    )

    def validate_target_wait(self, target_wait_ns: int) -> int:
        if target_wait_ns == 0:
            raise serializers.ValidationError("Must be more than 0.")
        return target_wait_ns


@response_example(
    {
        "queue": "inference",
        "pending": 40,
        "active": 8,
        "scheduled_due": 0,
        "demand": 48,
        "oldest_pending_s": 4.25,
        "workers": 2,
        "slots": 8,
        "slots_per_worker": 4.0,
        "arrival_per_s": 5.2,
        "mean_run_s": 2.5,
        "target_wait_s": 30.0,
        "desired_workers": 5,
        "reason": "none",
    }
)
class QueueDemandSerializer(serializers.Serializer[Any]):
    """How much work a queue has, and how many workers that needs."""

    queue = serializers.CharField()
    pending = serializers.IntegerField()
    active = serializers.IntegerField()
    scheduled_due = serializers.IntegerField(help_text="Scheduled tasks and retries that become pending next")
    demand = serializers.IntegerField(help_text="`pending` and `active`: tasks that need a slot now")
    oldest_pending_s = serializers.FloatField(help_text="How long the oldest pending task has waited")
    workers = serializers.IntegerField(help_text="Live worker processes, also those that start or drain")
    slots = serializers.IntegerField(help_text="Tasks that its ready workers can run at once")
    slots_per_worker = serializers.FloatField(
        allow_null=True, help_text="Of its workers, or of the last ones; null: it never had one"
    )
    arrival_per_s = serializers.FloatField(
        allow_null=True, help_text="Tasks a second that became pending in the last five minutes; null: not known yet"
    )
    mean_run_s = serializers.FloatField(
        allow_null=True,
        help_text="Mean duration of the runs of the last five minutes, or of the last ones before; null: none yet",
    )
    target_wait_s = serializers.FloatField()
    desired_workers = serializers.IntegerField(
        help_text="0 without demand, or while it is paused; 1 while a duration or the slots are unknown; otherwise "
        "the slots that are needed / `slots_per_worker`, rounded up. These are `arrival_per_s` * `mean_run_s`, or if "
        "that is more, `active` + `pending` * `mean_run_s` / `target_wait_s`, and one for each task at most"
    )
    reason = serializers.ChoiceField(
        choices=[reason.value for reason in DemandReason],
        help_text="Why nothing runs: no live worker serves it although there is demand, the code of all its workers "
        "does not start, or it is paused",
    )
