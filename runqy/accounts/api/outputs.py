"""Says how API keys look in answers, and in the schema."""

from typing import Any

from rest_framework import serializers

from runqy.accounts.identity import LONGEST_NAME, MOST_QUEUES, NAME, QUEUE_NAME, Role
from runqy.accounts.models import ApiKey
from runqy.api.moments import moment_of
from runqy.api.schema import ClosedBody

_ROLES = [role.value for role in Role]


def key_detail(key: ApiKey) -> dict[str, Any]:
    """Return what may be said about a key."""
    moments = ("created_at", "expires_at", "revoked_at", "last_used_at")
    return {
        "id": key.pk,
        "name": key.name,
        "prefix": key.prefix,
        "role": key.role,
        "queues": key.queues,
        **{name: moment and moment_of(moment) for name in moments for moment in [getattr(key, name)]},
    }


class KeyBody(ClosedBody):
    """A new key."""

    name = serializers.RegexField(NAME, max_length=LONGEST_NAME, help_text="Who or what uses the key")
    role = serializers.ChoiceField(choices=_ROLES, required=False, default=Role.CLIENT.value)
    queues = serializers.ListField(
        child=serializers.RegexField(QUEUE_NAME),
        max_length=MOST_QUEUES,
        required=False,
        help_text="Names of the queues it is limited to; empty: all",
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="With an offset; null: never")


class KeyOutput(serializers.Serializer[ApiKey]):
    """A key, of which nobody can tell more than its beginning; `key_detail` makes it."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="How the key begins")
    role = serializers.ChoiceField(choices=_ROLES)
    queues = serializers.ListField(child=serializers.CharField(), help_text="Empty: all")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute")


class KeyCreated(serializers.Serializer[object]):
    """The answer to a new key, the only one that says what it is."""

    message = serializers.CharField()
    key = serializers.CharField(help_text="Keep it: it is not shown again")
    api_key = KeyOutput()


class KeyList(serializers.Serializer[object]):
    """Keys, the newest first, those that were revoked or have expired among them."""

    keys = KeyOutput(many=True)
    count = serializers.IntegerField(help_text="On this page")
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null: this is the last")


class KeyRevoked(serializers.Serializer[object]):
    """The answer to a revocation."""

    message = serializers.CharField()
    api_key = KeyOutput()
