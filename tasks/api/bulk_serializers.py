"""Bodies of bulk actions."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from runqy.api.query_parameters import FlagParameter
from runqy.api.schema import request_example, response_example
from runqy.api.serializers import (
    AwareDateTimeField,
    BodySerializer,
    EmptyAsNullField,
    StrictChoiceField,
    StrictSerializer,
    StringField,
)
from runqy.broker.states import RunOutcome, TaskState
from tasks.actions import TaskAction
from tasks.bulk_actions import get_query, list_valid_actions
from tasks.models import BulkAction

_ACTIONS = [action.value for action in TaskAction if action is not TaskAction.RELEASE]
_ENDED_ONLY = ("outcomes", "from", "worker", "commit", "fingerprint")
_FILTER_EXAMPLE = {"state": "archived", "queue": "inference", "text": "CUDA out of memory"}
_EXAMPLE = {
    "id": 17,
    "action": "run",
    "filter": _FILTER_EXAMPLE,
    "state": "running",
    "expected": 1200,
    "done": 400,
    "skipped": 3,
    "failed": 0,
    "problems": [{"queue": "inference_high", "id": "task-uuid", "outcome": "skipped", "reason": "it is pending"}],
    "full_queue": None,
    "error": None,
    "created_at": "2024-01-15T12:45:00Z",
    "started_at": "2024-01-15T12:45:01Z",
    "ended_at": None,
}


class BulkRequestQuerySerializer(BodySerializer):
    """How to request a bulk action."""

    dry_run = FlagParameter("Only count the tasks")


class _FilterField(StringField):
    """A text that limits the tasks; empty: it does not."""

    def __init__(self, help_text: str, max_length: int = 255) -> None:
        super().__init__(required=False, allow_blank=True, default="", max_length=max_length, help_text=help_text)


@request_example({"action": "run", **_FILTER_EXAMPLE})
class BulkRequestSerializer(StrictSerializer):
    """An action, and the tasks that it is for: those that match all members."""

    action = StrictChoiceField(choices=_ACTIONS)
    state = StrictChoiceField(
        choices=[state.value for state in TaskState],
        required=False,
        allow_null=True,
        help_text="Tasks in this state; null: ended tasks of the history",
    )
    queue = _FilterField("A queue, with all its sub-queues, or one sub-queue; empty: all queues")
    text = _FilterField("Words that the payload or the error contains", max_length=300)
    outcomes = serializers.ListField(
        child=StrictChoiceField(choices=[outcome.value for outcome in RunOutcome]),
        required=False,
        help_text="How ended tasks ended. Like the members below only without `state`",
    )
    worker = _FilterField("Id of a worker")
    commit = _FilterField("A deployed commit", max_length=64)
    fingerprint = _FilterField("A group of errors, from `/api/errors`", max_length=32)

    def get_fields(self) -> dict[str, Any]:
        """Add `from`, which is a keyword of Python, and `to`."""
        since = AwareDateTimeField(required=False, source="since", help_text="Tasks that ended at this time or later")
        until = AwareDateTimeField(
            required=False, source="until", help_text="Tasks that entered the state, or ended, before this time"
        )
        return {**super().get_fields(), "from": since, "to": until}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        state = TaskState(attrs["state"]) if attrs.get("state") else None
        if TaskAction(attrs["action"]) not in list_valid_actions(state):
            kind = f"in the state {state}" if state else "that ended; give the state of the tasks"
            raise serializers.ValidationError({"action": f"Not possible for tasks {kind}."})
        given = {**attrs, "from": attrs.get("since")}
        if state and (refused := [name for name in _ENDED_ONLY if given.get(name)]):
            raise serializers.ValidationError(dict.fromkeys(refused, "Applies to ended tasks; remove it, or state."))
        return attrs


@response_example(_EXAMPLE)
class BulkSerializer(serializers.ModelSerializer[BulkAction]):
    """A bulk action and its progress."""

    filter = serializers.SerializerMethodField(help_text="The tasks that it is for, as requested")
    state = serializers.ChoiceField(choices=[state.value for state in BulkAction.State])
    expected = serializers.IntegerField(help_text="Tasks that matched at the request; of many, only the first counted")
    done = serializers.IntegerField()
    skipped = serializers.IntegerField(help_text="Tasks that had changed meanwhile")
    failed = serializers.IntegerField()
    problems = serializers.ListField(
        child=serializers.DictField(child=serializers.CharField()), help_text="Some of the tasks that were not changed"
    )
    full_queue = EmptyAsNullField(allow_null=True, help_text="The Redis queue that has no room; it waits for it")
    error = EmptyAsNullField(allow_null=True, help_text="Why it failed")

    class Meta:
        model = BulkAction
        fields: ClassVar = [*_EXAMPLE]

    @extend_schema_field({"type": "object", "additionalProperties": True})
    def get_filter(self, bulk: BulkAction) -> dict[str, object]:
        query = get_query(bulk)
        members: dict[str, object] = {"state": query.state, "queue": query.queue, "text": query.text}
        members |= {"outcomes": list(query.outcomes), "worker": query.worker_id, "commit": query.commit}
        members |= {"fingerprint": query.fingerprint, "from": query.since, "to": query.until}
        return {name: value for name, value in members.items() if value}


@extend_schema_serializer(many=False)
@response_example({"bulk_actions": [_EXAMPLE], "next": None})
class BulkListSerializer(serializers.Serializer[Any]):
    """A page of bulk actions, the newest first."""

    bulk_actions = BulkSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


@response_example({"dry_run": True, "matched": 1200, "is_exact": True})
class BulkPreviewSerializer(serializers.Serializer[Any]):
    """The number of tasks that a bulk action would be for."""

    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField()
    is_exact = serializers.BooleanField(help_text="False: at least this many; the rest was not counted")
