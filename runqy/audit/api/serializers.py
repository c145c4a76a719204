"""Bodies of the audit routes."""

import json
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from runqy.api.query_parameters import TextParameter
from runqy.api.serializers import AwareDateTimeField, BodySerializer, EmptyAsNullField
from runqy.audit.actors import ActorKind
from runqy.audit.models import AuditRecord


class AuditQuerySerializer(BodySerializer):
    """Which records to list."""

    object = TextParameter("Only about the object of this name, and its parts: `api-keys` also finds `api-keys/TOKEN`")
    object_kind = TextParameter("Only about objects of this kind, such as `queue`, `vault`, `api_key`")
    action = TextParameter("Only this action, such as `queue.updated`")
    actor = TextParameter("Only of the key, user or command of this name")
    text = TextParameter("Each word occurs in a name, the action, the address or the request id")

    def get_fields(self) -> dict[str, Any]:
        """Add `from`, which is a keyword of Python, and `to`."""
        since = AwareDateTimeField(required=False, source="since", help_text="Changes at this time or later")
        until = AwareDateTimeField(required=False, source="until", help_text="Changes before this time")
        return {**super().get_fields(), "from": since, "to": until}


@extend_schema_field(OpenApiTypes.OBJECT)
class ChangesField(serializers.Field[Any, Any, Any, Any]):
    """Stored JSON, as JSON."""

    def to_representation(self, value: str) -> Any:
        return json.loads(value)


class AuditRecordSerializer(serializers.ModelSerializer[AuditRecord]):
    """A change: who made it, when, and what was before and after."""

    actor_kind = serializers.ChoiceField(choices=list(ActorKind))
    actor_id = EmptyAsNullField(allow_null=True, help_text="Of the key or user; null for a key of the environment")
    address = EmptyAsNullField(allow_null=True, help_text="Of the client")
    request_id = EmptyAsNullField(allow_null=True, help_text="As in the log")
    changes = ChangesField(help_text='By field, `{"old", "new"}`; `"changed"` where the value is a secret')

    class Meta:
        model = AuditRecord
        fields = (
            *("number", "at", "recorded_at", "actor_kind", "actor_name", "actor_id", "address", "request_id"),
            *("action", "object_kind", "object_name", "changes"),
        )
        read_only_fields = fields


@extend_schema_serializer(many=False)
class AuditListSerializer(serializers.Serializer[Any]):
    """A page of records, the newest first."""

    records = AuditRecordSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")
