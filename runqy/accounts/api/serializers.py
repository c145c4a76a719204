"""Bodies of the API key routes."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from runqy.accounts.identity import LONGEST_NAME, MOST_QUEUES, MOST_VAULTS, NAME, QUEUE_NAME, RATE, VAULT_NAME, Role
from runqy.accounts.operations import RevokedKey
from runqy.api.serializers import (
    AwareDateTimeField,
    EmptyAsNullField,
    PatternField,
    PublishedField,
    StrictSerializer,
)
from runqy.audit.actors import ActorKind
from runqy.errors import ApiKeyInvalid

_ROLES = [role.value for role in Role]


class CreateApiKeySerializer(StrictSerializer):
    """A new key."""

    error_class = ApiKeyInvalid

    name = PatternField(NAME, max_length=LONGEST_NAME, help_text="Who or what uses the key")
    role = serializers.ChoiceField(choices=_ROLES, required=False, default=Role.CLIENT.value)
    queues = serializers.ListField(
        child=PatternField(QUEUE_NAME),
        max_length=MOST_QUEUES,
        required=False,
        default=list,
        help_text="Names of the queues it is limited to; empty: all",
    )
    expires_at = AwareDateTimeField(
        required=False, allow_null=True, default=None, help_text="With an offset; null: never"
    )
    vaults = serializers.ListField(
        child=PatternField(VAULT_NAME),
        max_length=MOST_VAULTS,
        required=False,
        default=list,
        help_text="Names of the vaults that workers with this key may use; empty: all. Only with the role `worker`",
    )
    rate_limit = PatternField(
        RATE, required=False, default="", help_text="As `50/s`, `600/m` or `10000/h`; empty: as RUNQY_RATE_LIMIT says"
    )


class ApiKeySerializer(serializers.Serializer[Any]):
    """A key, of which only the beginning is known."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="The beginning of the key")
    role = serializers.ChoiceField(choices=_ROLES)
    queues = serializers.ListField(child=serializers.CharField(), help_text="Empty: all")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    rate_limit = serializers.CharField(help_text="Empty: as RUNQY_RATE_LIMIT says")
    revoked_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute")
    created_by_kind = EmptyAsNullField(allow_null=True, help_text=f"`{'`, `'.join(ActorKind)}`; null: not recorded")
    created_by = EmptyAsNullField(allow_null=True, help_text="The name of the key, user or command that created it")
    created_by_key = serializers.IntegerField(
        source="created_by_key_id", allow_null=True, help_text="The id of the key that created it"
    )
    vaults = serializers.ListField(
        child=serializers.CharField(), help_text="The vaults that workers with this key may use; empty: all"
    )


class ApiKeyCreatedSerializer(serializers.Serializer[Any]):
    """A new key; the only response that contains the key itself."""

    message = serializers.CharField()
    key = serializers.CharField(help_text="Keep it: it is not shown again")
    api_key = ApiKeySerializer()
    published = PublishedField()


@extend_schema_serializer(many=False)
class ApiKeyListSerializer(serializers.Serializer[Any]):
    """Keys, the newest first, revoked and expired ones included."""

    keys = ApiKeySerializer(many=True)
    count = serializers.IntegerField(help_text="On this page")
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class ApiKeyRevokedSerializer(serializers.Serializer[Any]):
    """A revoked key."""

    message = serializers.CharField()
    api_key = ApiKeySerializer(source="revoked.row")
    accepted_descendants = serializers.SerializerMethodField(
        help_text="How many keys are still accepted that this key created, or that those created"
    )
    revoked_descendants = serializers.SerializerMethodField(help_text="The ids of those that were revoked with it")
    published = PublishedField()

    def get_accepted_descendants(self, response: Mapping[str, Any]) -> int:
        revoked: RevokedKey = response["revoked"]
        return len(revoked.accepted_descendants)

    def get_revoked_descendants(self, response: Mapping[str, Any]) -> list[int]:
        revoked: RevokedKey = response["revoked"]
        return [key.pk for key in revoked.revoked_descendants]
