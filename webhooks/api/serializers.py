"""Bodies of the webhook routes."""

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from queues.webhook_urls import URL_MAX_LENGTH
from runqy.api.schema import request_example, response_example
from runqy.api.serializers import (
    EmptyAsNullField,
    PatternField,
    StrictBooleanField,
    StrictChoiceField,
    StrictIntegerField,
    StrictSerializer,
    StringField,
)
from runqy.core.formats.names import QUEUE_NAME, QUEUE_NAME_RULE
from runqy.errors import WebhookInvalid
from webhooks.endpoint_rules import HEADERS_MAX, QUEUES_MAX, RECIPIENTS_MAX
from webhooks.models import IN_FLIGHT, IN_FLIGHT_MAX, Endpoint, EndpointEvent, EndpointKind, EndpointLevel
from webhooks.operations import DROP, KEEP_SENDING

RESEND_MAX = 1000
_EVENTS = [event.value for event in EndpointEvent]
_KINDS = [kind.value for kind in EndpointKind]
_LEVELS = [level.value for level in EndpointLevel]
_STATES = ["pending", "delivered", "failed"]

ENDPOINT_BODY: dict[str, Any] = {
    "url": "https://shop.example.com/runqy",
    "queues": ["inference"],
    "events": ["task.completed", "task.archived"],
    "include_result": True,
    "headers": {"Authorization": "Bearer d2a84f4b8b650937"},
}
_ENDPOINT: dict[str, Any] = {
    "id": "6f1f0c2b7d7a4e35",
    "kind": "webhook",
    **ENDPOINT_BODY,
    "recipients": [],
    "levels": [],
    "headers": ["Authorization"],
    "enabled": True,
    "disabled_reason": None,
    "failing_since": None,
    "in_flight": 16,
    "dropped": 0,
    "created_at": "2026-11-26T08:00:00Z",
    "updated_at": "2026-11-26T08:00:00Z",
    "created_by_kind": "key",
    "created_by": "deployment",
    "created_by_key": 3,
}
_SECRET = "whsec_Y2hhbmdlIG1lOiB0aGlzIGlzIGFuIGV4YW1wbGUh"  # noqa: S105 (an example)
DELIVERY: dict[str, Any] = {
    "id": 41,
    "webhook_id": "msg_0b6a1d62ac2f0c5d2d7d3c1f6a0e7b9d3f5a8c21",
    "event": "task.completed",
    "queue": "inference",
    "task_id": "0d5f7d7e-4d07-4a4e-9d8a-0f3f8f9a2b11",
    "state": "delivered",
    "attempts": 1,
    "created_at": "2026-11-26T08:00:00Z",
    "due_at": "2026-11-26T08:00:00Z",
    "sent_at": "2026-11-26T08:00:01Z",
    "status": 204,
    "duration_ms": 31,
    "response": "",
    "error": None,
    "body": '{"type":"task.completed","timestamp":"2026-11-26T08:00:00Z","data":{"id":"0d5f7d7e"}}',
}


@request_example(ENDPOINT_BODY)
class EndpointBodySerializer(StrictSerializer):
    """A webhook endpoint, or what to change of one."""

    error_class = WebhookInvalid

    url = StringField(
        max_length=URL_MAX_LENGTH,
        required=False,
        help_text="`https://…`; `http://` only in networks of RUNQY_WEBHOOK_NETWORKS. E-mail has none",
    )
    recipients = serializers.ListField(
        child=StringField(max_length=320),
        max_length=RECIPIENTS_MAX,
        required=False,
        default=list,
        help_text="Of e-mail: the addresses",
    )
    queues = serializers.ListField(
        child=PatternField(f"^{QUEUE_NAME}$", error_messages={"invalid": QUEUE_NAME_RULE}),
        max_length=QUEUES_MAX,
        required=False,
        default=list,
        help_text="Names of queues; empty: all, also those that are made later",
    )
    events = serializers.ListField(
        child=StrictChoiceField(choices=_EVENTS),
        allow_empty=False,
        max_length=len(_EVENTS),
        help_text="Events that it receives",
    )
    levels = serializers.ListField(
        child=StrictChoiceField(choices=_LEVELS),
        max_length=len(_LEVELS),
        required=False,
        default=list,
        help_text="Only alerts of these levels; empty: all",
    )
    include_result = StrictBooleanField(required=False, default=False, help_text="Send results of up to 20 KiB")
    headers = serializers.DictField(
        child=StringField(),
        required=False,
        default=dict,
        help_text=f"Up to {HEADERS_MAX} headers of requests, stored encrypted; a change replaces all of them",
    )
    enabled = StrictBooleanField(
        source="is_enabled",
        required=False,
        default=True,
        help_text="False: nothing is sent, and what ends meanwhile is not sent later; what was due before waits",
    )
    in_flight = StrictIntegerField(
        min_value=1,
        max_value=IN_FLIGHT_MAX,
        required=False,
        default=IN_FLIGHT,
        help_text="How many messages are sent at once; fewer while they fail",
    )


@request_example({"enabled": True, "kept": "drop"})
class ChangeEndpointSerializer(EndpointBodySerializer):
    """What to change of an endpoint."""

    kept = StrictChoiceField(
        choices=[KEEP_SENDING, DROP],
        required=False,
        help_text="Beside `enabled: true`: whether the messages that wait are sent (the default) or dropped",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "kept" in attrs and not attrs.get("is_enabled"):
            raise serializers.ValidationError({"kept": ["Only beside enabled: true."]}, "invalid")
        return attrs


@request_example({"kind": "webhook", **ENDPOINT_BODY})
class CreateEndpointSerializer(EndpointBodySerializer):
    """A new endpoint. Its kind does not change."""

    kind = StrictChoiceField(
        choices=_KINDS,
        required=False,
        default=EndpointKind.WEBHOOK.value,
        help_text="slack: the URL is an incoming webhook, stored encrypted; email: see `recipients`. Both are told "
        "only of alerts",
    )


@response_example(_ENDPOINT)
class EndpointSerializer(serializers.Serializer[Endpoint]):
    """A webhook endpoint."""

    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=_KINDS)
    url = EmptyAsNullField(allow_null=True, help_text="Of Slack only the host: the URL is a secret; null for e-mail")
    recipients = serializers.ListField(child=serializers.CharField())
    queues = serializers.ListField(child=serializers.CharField(), help_text="Empty: all")
    events = serializers.ListField(child=serializers.ChoiceField(choices=_EVENTS))
    levels = serializers.ListField(child=serializers.ChoiceField(choices=_LEVELS), help_text="Empty: all")
    include_result = serializers.BooleanField()
    headers = serializers.ListField(child=serializers.CharField(), source="header_names", help_text="Only their names")
    enabled = serializers.BooleanField(source="is_enabled")
    disabled_reason = EmptyAsNullField(allow_null=True, help_text="Why the server disabled it; null if a user did")
    failing_since = serializers.DateTimeField(allow_null=True, help_text="Null: the last attempt succeeded")
    in_flight = serializers.IntegerField()
    dropped = serializers.IntegerField(
        help_text="Messages that were dropped, as too many or too old, since the server disabled it"
    )
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    created_by_kind = EmptyAsNullField(allow_null=True)
    created_by = EmptyAsNullField(allow_null=True, help_text="The key, user or command that created it")
    created_by_key = serializers.IntegerField(source="created_by_key_id", allow_null=True)


@response_example({**_ENDPOINT, "warnings": []})
class SavedEndpointSerializer(EndpointSerializer):
    """An endpoint that was created or changed."""

    warnings = serializers.SerializerMethodField(help_text="Why it may not be told of some tasks")

    def get_warnings(self, row: Endpoint) -> list[str]:
        return list(self.context["warnings"])


@response_example({**_ENDPOINT, "warnings": [], "secret": _SECRET})
class CreatedEndpointSerializer(SavedEndpointSerializer):
    """A new endpoint; the only response that contains its secret."""

    secret = serializers.SerializerMethodField(
        help_text="Signs the messages of a webhook. Store it: it is not shown again; null for other kinds"
    )

    def get_secret(self, row: Endpoint) -> str | None:
        return self.context["secret"] or None


@response_example({"message": "Webhook endpoint deleted"})
class EndpointDeletedSerializer(serializers.Serializer[Mapping[str, str]]):
    """An endpoint was deleted."""

    message = serializers.CharField()


@response_example({"secret": _SECRET})
class SecretSerializer(serializers.Serializer[Mapping[str, str]]):
    """A new secret; the only response that contains it."""

    secret = serializers.CharField(help_text="Store it: it is not shown again")


@response_example({"webhooks": [_ENDPOINT]})
class EndpointListSerializer(serializers.Serializer[Any]):
    """The webhook endpoints, newest first."""

    webhooks = EndpointSerializer(many=True)


@response_example(DELIVERY)
class DeliverySerializer(serializers.Serializer[Any]):
    """A message to an endpoint: what was sent, and what came back."""

    id = serializers.IntegerField()
    webhook_id = serializers.CharField(source="message_id", help_text="The header `webhook-id`, the same on every try")
    event = serializers.CharField()
    queue = EmptyAsNullField(allow_null=True)
    task_id = EmptyAsNullField(allow_null=True)
    state = serializers.ChoiceField(choices=_STATES)
    attempts = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    due_at = serializers.DateTimeField(help_text="When it is sent, or sent again, while it is pending")
    sent_at = serializers.DateTimeField(allow_null=True, help_text="When the last attempt ended")
    status = serializers.IntegerField(allow_null=True, help_text="Of the last response; null: there was none")
    duration_ms = serializers.IntegerField(allow_null=True)
    response = serializers.CharField(help_text="The first 4 KiB of the last response")
    error = EmptyAsNullField(allow_null=True, help_text="Why the last attempt failed")
    body = serializers.CharField(help_text="What was sent")


@response_example({"deliveries": [DELIVERY], "next": None})
class DeliveryListSerializer(serializers.Serializer[Any]):
    """A page of deliveries, newest first."""

    deliveries = DeliverySerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


@request_example({"deliveries": [41, 42]})
class ResendSerializer(StrictSerializer):
    """What to send again."""

    error_class = WebhookInvalid

    deliveries = serializers.ListField(
        child=StrictIntegerField(min_value=1, max_value=10**18),
        allow_empty=False,
        max_length=RESEND_MAX,
        required=False,
        help_text=f"Ids of up to {RESEND_MAX} deliveries",
    )
    failed = StrictBooleanField(required=False, help_text="In place of `deliveries`: true sends all that failed")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("deliveries" in attrs) == attrs.get("failed", False):
            # Never for an empty body: it would send more than was meant.
            raise serializers.ValidationError({"deliveries": ["Name deliveries, or set failed to true."]}, "required")
        return attrs


@response_example({"resent": 3})
class ResentSerializer(serializers.Serializer[Mapping[str, int]]):
    """How many deliveries are sent again."""

    resent = serializers.IntegerField()
