"""Bulk actions over HTTP: an action on all tasks that match a filter, of any number of queues."""

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from runqy.api.parsers import refuse_members
from runqy.api.query_parameters import FlagParameter
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import problem_responses, request_example, response_example
from runqy.api.serializers import (
    AwareDateTimeField,
    BodySerializer,
    EmptyAsNullField,
    StrictChoiceField,
    StrictSerializer,
    StringField,
)
from runqy.api.viewsets import ApiViewSet
from runqy.broker.states import RunOutcome, TaskState
from runqy.errors import BulkActionNotFound
from runqy.redis_connection import get_broker
from tasks.actions import TaskAction
from tasks.bulk_actions import (
    cancel_bulk_action,
    create_bulk_action,
    get_bulk_action,
    get_query,
    list_valid_actions,
    preview_bulk_action,
)
from tasks.history.queries import resolve_history_queue
from tasks.models import BulkAction
from tasks.search import TaskQuery

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


@response_example({"dry_run": True, "matched": 1200, "is_exact": True})
class BulkPreviewSerializer(serializers.Serializer[Any]):
    """The number of tasks that a bulk action would be for."""

    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField()
    is_exact = serializers.BooleanField(help_text="False: at least this many; the rest was not counted")


class BulkActionViewSet(ApiViewSet):
    """Bulk actions. Maintenance applies them, in slices."""

    @extend_schema(
        operation_id="create_bulk_action",
        tags=["bulk actions"],
        parameters=[BulkRequestQuerySerializer],
        request=BulkRequestSerializer,
        responses={
            200: OpenApiResponse(BulkPreviewSerializer, "With `dry_run`"),
            202: OpenApiResponse(BulkSerializer, "Maintenance applies it: see Location"),
            **problem_responses(400, 401, 403, 404, 413, 415, 503),
        },
    )
    def create(self, request: AuthenticatedRequest) -> Response:
        """Apply an action to all tasks that match a filter, in any number of queues.

        Tasks that enter the state, or end, after the request do not match. Ended tasks that Redis no longer has run
        again as copies, with the same payload.
        """
        is_dry_run = BulkRequestQuerySerializer.validated(request.query_params.dict())["dry_run"]
        wanted = BulkRequestSerializer.validated(request.data)
        query = _to_query(wanted)
        found = preview_bulk_action(get_broker(), query)
        if is_dry_run:
            content = {"dry_run": True, "matched": found.count, "is_exact": found.is_exact}
            return Response(BulkPreviewSerializer(content).data)
        action = TaskAction(wanted["action"])
        bulk = create_bulk_action(get_broker(), action=action, query=query, expected=found.count)
        return Response(BulkSerializer(bulk).data, 202, headers={"Location": f"/api/bulk-actions/{bulk.pk}"})

    @extend_schema(
        operation_id="get_bulk_action",
        tags=["bulk actions"],
        responses={200: BulkSerializer, **problem_responses(401, 403, 404, 503)},
    )
    def retrieve(self, request: AuthenticatedRequest, number: str) -> Response:
        """Show a bulk action and how many tasks it has been applied to."""
        return Response(BulkSerializer(_find(number)).data)

    @extend_schema(
        operation_id="cancel_bulk_action",
        tags=["bulk actions"],
        request=None,
        responses={200: BulkSerializer, **problem_responses(400, 401, 403, 404, 503)},
    )
    def cancel(self, request: AuthenticatedRequest, number: str) -> Response:
        """Stop a bulk action. Tasks that it has changed stay changed. No effect on one that has ended."""
        refuse_members(request)
        bulk = _find(number)
        cancel_bulk_action(bulk.pk)
        return Response(BulkSerializer(_find(number)).data)


def _to_query(wanted: dict[str, Any]) -> TaskQuery:
    """Return the filter of a validated request. Raise QueueNotFound for a queue that the history does not know."""
    state = TaskState(wanted["state"]) if wanted.get("state") else None
    if state is None and wanted["queue"]:
        resolve_history_queue(wanted["queue"], allowed_queues=None)
    return TaskQuery(
        state=state,
        queue=wanted["queue"],
        text=wanted["text"],
        outcomes=tuple(RunOutcome(outcome) for outcome in wanted.get("outcomes", ())),
        since=wanted.get("since"),
        until=wanted.get("until"),
        worker_id=wanted["worker"],
        commit=wanted["commit"],
        fingerprint=wanted["fingerprint"],
    )


def _find(number: str) -> BulkAction:
    """Raise BulkActionNotFound if this is not the id of a bulk action."""
    # A longer number does not fit into a database's bigint.
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise BulkActionNotFound
    return get_bulk_action(int(number))
