"""Serializers of vaults, with examples for the schema; queries mask secrets before they are serialized."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from runqy.api.query_parameters import IntegerParameter, TextParameter
from runqy.api.schema import request_example, response_example
from runqy.api.serializers import (
    BodySerializer,
    PatternField,
    PublishedField,
    StrictBooleanField,
    StrictChoiceField,
    StrictIntegerField,
    StrictSerializer,
    StringField,
)
from runqy.audit.actors import ActorKind
from runqy.core.formats.names import VARIABLE_NAME, VARIABLE_NAME_RULE, VAULT_NAME
from runqy.errors import RunqyError, VaultInvalid
from vaults.entry_rules import GIT_HOSTS_MAX, EntryUsage
from vaults.models import EntryVersion, Vault, VaultDelivery, VaultEntry
from vaults.validators import validate_vault_name

VERSION_MAX = 2**31 - 1
_VERSION_ERROR = f"Must be an integer from 0 to {VERSION_MAX}."
_AT_ONCE = (
    "For a leaked secret: workers replace processes that have other values at once; otherwise some at a time do, each "
    "when its new process is ready"
)
_EXPECTED_VERSION = "Only if the entry is at this version; 0: only if it does not exist"
_USAGES = [usage.value for usage in EntryUsage]

_VAULT_EXAMPLE = {"name": "api-keys", "description": "API keys for external services"}
_TIMES_EXAMPLE = {"created_at": "2024-01-15T10:30:00Z", "updated_at": "2024-01-15T12:45:00Z"}
_ENTRY_EXAMPLE = {
    "key": "OPENAI_API_KEY",
    "value": "sk****yz",
    "is_secret": True,
    "version": 2,
    "updated_by": "admin key of the environment",
    **_TIMES_EXAMPLE,
    "usage": "environment",
    "git_hosts": [],
}


_WITHOUT_NUL = {"type": "string", "pattern": r"^[^\x00]*$"}  # DRF's CharField refuses NUL


@extend_schema_field(_WITHOUT_NUL)
class DescriptionField(StringField):
    """A text of any length."""


@extend_schema_field({"type": "string", "pattern": f"^{VAULT_NAME}$"})
class NewVaultNameField(StringField):
    """A name that a vault may get."""

    def __init__(self, **options: Any) -> None:
        super().__init__(validators=[validate_vault_name], **options)


class SecretSerializer(StrictSerializer):
    """A request body with a secret; DRF's `__repr__` would show it."""

    error_class: ClassVar[type[RunqyError]] = VaultInvalid

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@request_example(_VAULT_EXAMPLE)
class CreateVaultSerializer(StrictSerializer):
    """A new vault."""

    error_class = VaultInvalid

    name = NewVaultNameField()
    description = DescriptionField(required=False, allow_blank=True)


class DeleteEntryQuerySerializer(BodySerializer):
    """When to delete an entry."""

    expected_version = IntegerParameter(_EXPECTED_VERSION, lowest=0, highest=VERSION_MAX)


class DeliveryQuerySerializer(BodySerializer):
    """Which deliveries to list."""

    worker_id = TextParameter("Only deliveries to this worker")


@request_example({"value": "sk-your-key-here", "expected_version": 1})
class SetEntryValueSerializer(SecretSerializer):
    """The value of an entry to set."""

    value = StringField(help_text="At most 64 KiB")
    is_secret = StrictBooleanField(required=False, default=True, help_text="Mask the value in responses")
    usage = StrictChoiceField(
        choices=_USAGES,
        required=False,
        help_text="A variable of tasks, a git token that tasks do not get, or both. Unchanged when missing; "
        "a new entry is a variable, or with `git_hosts` a git token",
    )
    git_hosts = serializers.ListField(
        child=StringField(),
        max_length=GIT_HOSTS_MAX,
        required=False,
        help_text="Hosts that a git token may be sent to, such as `github.com` or `git.example.com:8443`. "
        "Unchanged when missing",
    )
    expected_version = StrictIntegerField(
        min_value=0,
        max_value=VERSION_MAX,
        required=False,
        allow_null=True,
        help_text=_EXPECTED_VERSION,
        error_messages=dict.fromkeys(("type", "min_value", "max_value"), _VERSION_ERROR),
    )
    replace_at_once = StrictBooleanField(required=False, default=False, help_text=_AT_ONCE)


@request_example(
    {"key": "GITHUB_TOKEN", "value": "ghp-your-token-here", "usage": "git_token", "git_hosts": ["github.com"]}
)
class SetEntrySerializer(SetEntryValueSerializer):
    """An entry to set."""

    key = PatternField(
        rf"^{VARIABLE_NAME}$",
        error_messages={"invalid": VARIABLE_NAME_RULE},
        help_text="Name of an environment variable",
    )


@request_example({"values": {"OPENAI_API_KEY": "sk-your-key-here", "LOG_LEVEL": "info"}})
class SetEntriesSerializer(SecretSerializer):
    """Entries to set, all or none."""

    values = serializers.DictField(
        child=StringField(), allow_empty=False, help_text="Values by the keys of their entries"
    )
    is_secret = StrictBooleanField(required=False, default=True, help_text="Mask the values in responses")
    replace_at_once = StrictBooleanField(required=False, default=False, help_text=_AT_ONCE)


class VaultListItemSerializer(serializers.ModelSerializer[Vault]):
    """A vault in the list."""

    entry_count = serializers.IntegerField()

    class Meta:
        model = Vault
        fields: ClassVar = ["name", "description", "entry_count"]


@response_example({"vaults": [{**_VAULT_EXAMPLE, "entry_count": 3}], "count": 1})
class VaultListSerializer(serializers.Serializer[Any]):
    """All vaults, in order of their names."""

    vaults = VaultListItemSerializer(many=True)
    count = serializers.IntegerField()


class VaultNameSerializer(serializers.ModelSerializer[Vault]):
    """A vault without its entries."""

    class Meta:
        model = Vault
        fields: ClassVar = ["name", "description"]


@response_example({"message": "vault created successfully", "vault": _VAULT_EXAMPLE, "published": True})
class VaultCreatedSerializer(serializers.Serializer[Any]):
    """A new vault."""

    message = serializers.CharField()
    vault = VaultNameSerializer()
    published = PublishedField()


@response_example(_ENTRY_EXAMPLE)
class VaultEntrySerializer(serializers.ModelSerializer[VaultEntry]):
    """An entry."""

    value = serializers.CharField(source="displayed_value", help_text="Masked if it is a secret")
    version = serializers.IntegerField(help_text="1, 2, 3 …: the number of the value, counted over deletions")
    updated_by = serializers.CharField(help_text="Who changed it last")
    usage = serializers.ChoiceField(choices=_USAGES, help_text="A variable of tasks, a git token, or both")
    git_hosts = serializers.ListField(child=serializers.CharField(), help_text="Hosts that a git token may be sent to")

    class Meta:
        model = VaultEntry
        fields: ClassVar = [
            *("key", "value", "is_secret", "version", "updated_by"),
            *("created_at", "updated_at", "usage", "git_hosts"),
        ]


@response_example({**_VAULT_EXAMPLE, "entries": [_ENTRY_EXAMPLE], **_TIMES_EXAMPLE})
class VaultSerializer(serializers.ModelSerializer[Vault]):
    """A vault with its entries."""

    entries = VaultEntrySerializer(many=True)

    class Meta:
        model = Vault
        fields: ClassVar = ["name", "description", "entries", "created_at", "updated_at"]


@response_example({"entries": [_ENTRY_EXAMPLE], "count": 1})
class VaultEntryListSerializer(serializers.Serializer[Any]):
    """The entries of a vault, in order of their keys."""

    entries = VaultEntrySerializer(many=True)
    count = serializers.IntegerField()


@response_example({"message": "entry set successfully", "version": 2, "published": True})
class EntrySetSerializer(serializers.Serializer[Any]):
    """An entry that was set."""

    message = serializers.CharField()
    version = serializers.IntegerField(help_text="The entry's current version; unchanged if it had this value already")
    published = PublishedField()


@response_example({"message": "entries set successfully", "changed": ["OPENAI_API_KEY"], "published": True})
class EntriesSetSerializer(serializers.Serializer[Any]):
    """Entries that were set."""

    message = serializers.CharField()
    changed = serializers.ListField(
        child=serializers.CharField(), help_text="The keys of entries that are new or changed; the others had the value"
    )
    published = PublishedField()


class EntryVersionSerializer(serializers.ModelSerializer[EntryVersion]):
    """A change of an entry."""

    version = serializers.IntegerField()
    actor_kind = serializers.ChoiceField(choices=list(ActorKind))
    actor = serializers.CharField(source="actor_name", help_text="Who did it, as in the audit log")

    class Meta:
        model = EntryVersion
        fields: ClassVar = ["version", "event", "at", "actor_kind", "actor"]


@response_example(
    {
        "versions": [
            {
                "version": 2,
                "event": "set",
                "at": "2024-01-15T12:45:00Z",
                "actor_kind": "key",
                "actor": "admin key of the environment",
            },
            {"version": 1, "event": "set", "at": "2024-01-15T10:30:00Z", "actor_kind": "user", "actor": "ada"},
        ],
        "count": 2,
        "next": None,
    }
)
class EntryVersionListSerializer(serializers.Serializer[Any]):
    """Changes of an entry, the latest first."""

    versions = EntryVersionSerializer(many=True)
    count = serializers.IntegerField(help_text="On this page")
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class VaultDeliverySerializer(serializers.ModelSerializer[VaultDelivery]):
    """A delivery of a vault's values to a worker."""

    queue = serializers.CharField(help_text="The queue that the worker registered for")
    versions = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="Versions of the entries whose values it received, by their keys",
    )
    is_current = serializers.BooleanField(help_text="Nothing of the vault has been set or deleted since")
    delivered_at = serializers.DateTimeField(source="at")
    api_key = serializers.CharField(source="key_name", help_text="The name of the API key that it registered with")
    address = serializers.CharField(help_text="The address that the request came from")

    class Meta:
        model = VaultDelivery
        fields: ClassVar = [
            *("id", "worker_id", "queue", "versions", "is_current", "delivered_at", "api_key", "address"),
        ]


@response_example(
    {
        "deliveries": [
            {
                "id": 7,
                "worker_id": "gpu-1:4711:3f1c09",
                "queue": "inference",
                "versions": {"OPENAI_API_KEY": 3},
                "is_current": True,
                "delivered_at": "2024-01-15T12:46:00Z",
                "api_key": "gpu machines",
                "address": "10.0.0.7",
            }
        ],
        "next": None,
    }
)
class VaultDeliveryListSerializer(serializers.Serializer[Any]):
    """Deliveries, the newest first."""

    deliveries = VaultDeliverySerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


@response_example({"message": "entry deleted successfully", "published": True})
class EntryDeletedSerializer(serializers.Serializer[Any]):
    """A deleted entry."""

    message = serializers.CharField()
    published = PublishedField()


@response_example(
    {
        "message": "vault deleted successfully",
        "published": True,
        "warnings": ["Workers cannot register for the queue mail, which uses the vault."],
    }
)
class VaultDeletedSerializer(serializers.Serializer[Any]):
    """A deleted vault, and the queues that use it."""

    message = serializers.CharField()
    published = PublishedField()
    warnings = serializers.ListField(child=serializers.CharField(), help_text="One for each queue that uses the vault")
