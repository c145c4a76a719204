"""Bodies of the API key routes."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from runqy.accounts.models import ApiKey
from runqy.accounts.operations import RevokedKey, count_waiting_members
from runqy.accounts.validators import KEY_NAME, KEY_NAME_RULE, MAX_NAME_LENGTH, MAX_QUEUES, MAX_VAULTS
from runqy.api.query_parameters import FlagParameter
from runqy.api.serializers import (
    AwareDateTimeField,
    BodySerializer,
    EmptyAsNullField,
    PatternField,
    PublishedField,
    StrictChoiceField,
    StrictSerializer,
)
from runqy.audit.actors import ActorKind
from runqy.core.api_keys import Identity, Role
from runqy.core.formats.durations import RATE, RATE_EXAMPLES
from runqy.core.formats.names import QUEUE_NAME, QUEUE_NAME_RULE, VAULT_NAME, VAULT_NAME_RULE
from runqy.errors import ApiKeyInvalid

_ROLES = [role.value for role in Role]


class _NamesField(serializers.ListField):
    """Sorted names, of a set or None."""

    child = serializers.CharField()

    def get_attribute(self, instance: Any) -> Any:
        return sorted(super().get_attribute(instance) or ())


class RevokeQuerySerializer(BodySerializer):
    """Which keys to revoke with one."""

    descendants = FlagParameter("Also revoke the keys that it created")
    cancel_batches = FlagParameter("Also cancel the batches that the revoked keys created and that have not ended")


class CreateApiKeySerializer(StrictSerializer):
    """A new key."""

    error_class = ApiKeyInvalid

    name = PatternField(
        f"^{KEY_NAME}$",
        max_length=MAX_NAME_LENGTH,
        error_messages={"invalid": KEY_NAME_RULE},
        help_text="Who or what uses the key",
    )
    role = StrictChoiceField(choices=_ROLES, required=False, default=Role.CLIENT.value)
    queues = serializers.ListField(
        child=PatternField(f"^{QUEUE_NAME}$", error_messages={"invalid": QUEUE_NAME_RULE}),
        max_length=MAX_QUEUES,
        required=False,
        default=list,
        help_text="Names of the queues that the key is limited to; empty: all",
    )
    expires_at = AwareDateTimeField(
        required=False, allow_null=True, default=None, help_text="With a UTC offset; null: never"
    )
    vaults = serializers.ListField(
        child=PatternField(f"^{VAULT_NAME}$", error_messages={"invalid": VAULT_NAME_RULE}),
        max_length=MAX_VAULTS,
        required=False,
        default=list,
        help_text="Names of the vaults that workers with this key may use; empty: all. Only for role `worker`",
    )
    rate_limit = PatternField(
        f"^({RATE})?$",
        error_messages={"invalid": f"Must be {RATE_EXAMPLES}."},
        required=False,
        default="",
        help_text="`50/s`, `600/m` or `10000/h`; empty: RUNQY_RATE_LIMIT",
    )
    allow_shared_redis = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Give workers without a Redis user of their own, such as Go's, credentials that reach the tasks of "
        "all queues although the key is limited to some",
    )


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """An API key. Only its prefix is stored in plain text."""

    queues = serializers.ListField(child=serializers.CharField(), help_text="Empty: all")
    created_by_kind = EmptyAsNullField(allow_null=True, help_text=f"`{'`, `'.join(ActorKind)}`; null: not recorded")
    created_by = EmptyAsNullField(allow_null=True, help_text="The name of the key, user or command that created it")
    vaults = serializers.ListField(
        child=serializers.CharField(), help_text="The vaults that workers with this key may use; empty: all"
    )

    is_personal = serializers.BooleanField(
        help_text="The user that created it uses it; it ends when that user loses its rights"
    )

    class Meta:
        model = ApiKey
        fields = (
            *("id", "name", "prefix", "role", "queues", "created_at", "expires_at", "rate_limit", "revoked_at"),
            *(
                "last_used_at",
                "created_by_kind",
                "created_by",
                "created_by_key",
                "vaults",
                "allow_shared_redis",
                "is_personal",
            ),
        )
        read_only_fields = fields


class ApiKeyDetailSerializer(ApiKeySerializer):
    """An API key, and what waits of it."""

    waiting_members = serializers.SerializerMethodField(
        help_text="Members of batches that it created that wait to be enqueued"
    )

    class Meta(ApiKeySerializer.Meta):
        fields = read_only_fields = (*ApiKeySerializer.Meta.fields, "waiting_members")  # type: ignore[assignment]

    def get_waiting_members(self, key: ApiKey) -> int:
        return count_waiting_members([key.pk])


class OwnApiKeySerializer(serializers.Serializer[Identity]):
    """The key of a request."""

    id = EmptyAsNullField(source="key_id", allow_null=True, help_text="Null for a key of the server's environment")
    name = serializers.CharField()
    role = serializers.ChoiceField(choices=_ROLES)
    queues = _NamesField(help_text="Names of the queues that the key is limited to; empty: all")
    vaults = _NamesField(help_text="Names of the vaults that workers with this key may use; empty: all")


class ApiKeyCreatedSerializer(serializers.Serializer[Any]):
    """A new key; the only response that contains the key itself."""

    message = serializers.CharField()
    key = serializers.CharField(help_text="Store it: it is not shown again")
    api_key = ApiKeySerializer()
    warnings = serializers.ListField(child=serializers.CharField(), help_text="Queues of it that do not exist yet")
    published = PublishedField()


@extend_schema_serializer(many=False)
class ApiKeyListSerializer(serializers.Serializer[Any]):
    """Keys, newest first, including revoked and expired ones."""

    keys = ApiKeySerializer(many=True)
    count = serializers.IntegerField(help_text="On this page")
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class ApiKeyRevokedSerializer(serializers.Serializer[Any]):
    """A revoked key."""

    message = serializers.CharField()
    api_key = ApiKeySerializer(source="revoked.row")
    accepted_descendants = serializers.SerializerMethodField(
        help_text="Number of keys still accepted that this key created, directly or indirectly"
    )
    revoked_descendants = serializers.SerializerMethodField(help_text="Ids of the keys that were revoked with it")
    waiting_members = serializers.IntegerField(
        source="revoked.waiting_members",
        help_text="Members of batches of the revoked keys that wait, and will be enqueued",
    )
    canceled_batches = serializers.IntegerField(source="revoked.canceled_batches")
    published = PublishedField()

    def get_accepted_descendants(self, response: Mapping[str, Any]) -> int:
        revoked: RevokedKey = response["revoked"]
        return len(revoked.accepted_descendants)

    def get_revoked_descendants(self, response: Mapping[str, Any]) -> list[int]:
        revoked: RevokedKey = response["revoked"]
        return [key.pk for key in revoked.revoked_descendants]
