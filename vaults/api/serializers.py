"""Bodies of the vault routes. Values of secrets are masked before they reach a serializer of responses."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from runqy.api.serializers import (
    PatternField,
    PublishedField,
    StrictBooleanField,
    StrictIntegerField,
    StrictSerializer,
    StringField,
)
from runqy.audit.actors import ActorKind
from runqy.errors import PassphraseRefused, RunqyError, VaultInvalid
from vaults.export_file import N_MAX, N_MIN, P_MAX, PASSPHRASE_MAX, PASSPHRASE_MIN
from vaults.models import Event
from vaults.names import GIT_HOSTS_MAX, VARIABLE_RULE, VAULT_RULE, EntryUsage

HIGHEST_VERSION = 2**31 - 1
_USAGES = [usage.value for usage in EntryUsage]
_VAULT_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


class VersionField(StrictIntegerField):
    """The version of an entry; 0 is that of one that does not exist."""

    default_error_messages: ClassVar = {"type": f"Must be an integer from 0 to {HIGHEST_VERSION}."}

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=HIGHEST_VERSION, **options)

    def to_internal_value(self, data: Any) -> int:
        version = super().to_internal_value(data)
        if not 0 <= version <= HIGHEST_VERSION:
            self.fail("type")
        return version


@extend_schema_field({"type": "string", "minLength": PASSPHRASE_MIN, "maxLength": PASSPHRASE_MAX})
class PassphraseField(StringField):
    """A passphrase; its length counts once it is normalized, so the operation checks it."""


@extend_schema_field({"type": "string", "pattern": r"^[^\x00]*$"})
class DescriptionField(StringField):
    """A string without NUL, which DRF's CharField refuses."""


class SecretSerializer(StrictSerializer):
    """A request body with a secret; DRF's `__repr__` would show it."""

    error_class: ClassVar[type[RunqyError]] = VaultInvalid

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class CreateVaultSerializer(StrictSerializer):
    """A new vault."""

    error_class = VaultInvalid

    name = PatternField(rf"^(?!import$){_VAULT_NAME}$", error_messages={"invalid": VAULT_RULE})
    description = DescriptionField(required=False, allow_blank=True)


class SetEntryValueSerializer(SecretSerializer):
    """The value of an entry to set."""

    value = StringField(help_text="At most 64 KiB")
    is_secret = StrictBooleanField(required=False, default=True, help_text="Mask the value in responses")
    usage = serializers.ChoiceField(
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
    expected_version = VersionField(
        required=False,
        allow_null=True,
        help_text="Only if the entry is at this version; 0: only if it does not exist",
    )


class SetEntrySerializer(SetEntryValueSerializer):
    """An entry to set."""

    key = PatternField(
        r"^[A-Za-z_][A-Za-z0-9_]{0,254}$",
        error_messages={"invalid": VARIABLE_RULE},
        help_text="Name of an environment variable",
    )


class VaultListItemSerializer(serializers.Serializer[Any]):
    """A vault in the list."""

    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    entry_count = serializers.IntegerField()


@extend_schema_serializer(many=False)
class VaultListSerializer(serializers.Serializer[Any]):
    """All vaults, in order of their names."""

    vaults = VaultListItemSerializer(many=True)
    count = serializers.IntegerField()


class VaultNameSerializer(serializers.Serializer[Any]):
    """A vault without its entries."""

    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)


class VaultCreatedSerializer(serializers.Serializer[Any]):
    """A new vault."""

    message = serializers.CharField()
    vault = VaultNameSerializer()
    published = PublishedField()


class VaultEntrySerializer(serializers.Serializer[Any]):
    """An entry."""

    key = serializers.CharField()
    value = serializers.CharField(help_text="Masked if it is a secret")
    is_secret = serializers.BooleanField()
    version = serializers.IntegerField(help_text="1, 2, 3 …: the number of the value, counted over deletions")
    updated_by = serializers.CharField(help_text="Who changed it last")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    usage = serializers.ChoiceField(choices=_USAGES, help_text="A variable of tasks, a git token, or both")
    git_hosts = serializers.ListField(child=serializers.CharField(), help_text="Hosts that a git token may be sent to")


class VaultSerializer(serializers.Serializer[Any]):
    """A vault with its entries."""

    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    entries = VaultEntrySerializer(many=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


@extend_schema_serializer(many=False)
class VaultEntryListSerializer(serializers.Serializer[Any]):
    """The entries of a vault, in order of their keys."""

    entries = VaultEntrySerializer(many=True)
    count = serializers.IntegerField()


class EntrySetSerializer(serializers.Serializer[Any]):
    """An entry that was set."""

    message = serializers.CharField()
    version = serializers.IntegerField(help_text="The entry's current version; unchanged if it had this value already")
    published = PublishedField()


class EntryVersionSerializer(serializers.Serializer[Any]):
    """A change of an entry."""

    version = serializers.IntegerField()
    event = serializers.ChoiceField(choices=Event.values)
    at = serializers.DateTimeField()
    actor_kind = serializers.ChoiceField(choices=list(ActorKind))
    actor = serializers.CharField(source="actor_name", help_text="Who did it, as in the audit log")


@extend_schema_serializer(many=False)
class EntryVersionListSerializer(serializers.Serializer[Any]):
    """Changes of an entry, the latest first."""

    versions = EntryVersionSerializer(many=True)
    count = serializers.IntegerField(help_text="On this page")
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class VaultDeliverySerializer(serializers.Serializer[Any]):
    """A delivery of a vault's values to a worker."""

    id = serializers.IntegerField(source="record.pk")
    worker_id = serializers.CharField(source="record.worker_id")
    queue = serializers.CharField(source="record.queue", help_text="The queue that the worker registered for")
    versions = serializers.DictField(
        source="record.versions",
        child=serializers.IntegerField(),
        help_text="Versions of the entries whose values it received, by their keys",
    )
    is_current = serializers.BooleanField(help_text="Nothing of the vault has been set or deleted since")
    delivered_at = serializers.DateTimeField(source="record.at")
    api_key = serializers.CharField(
        source="record.key_name", help_text="The name of the API key that it registered with"
    )
    address = serializers.CharField(
        source="record.address", allow_blank=True, help_text="The address that the request came from"
    )


@extend_schema_serializer(many=False)
class VaultDeliveryListSerializer(serializers.Serializer[Any]):
    """Deliveries, the newest first."""

    deliveries = VaultDeliverySerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class ExportVaultSerializer(SecretSerializer):
    """The passphrase that an export is encrypted under."""

    error_class = PassphraseRefused

    passphrase = PassphraseField()


class KeyDerivationSerializer(serializers.Serializer[Any]):
    """How the key is derived from the passphrase."""

    name = serializers.ChoiceField(choices=["scrypt"])
    n = serializers.IntegerField(min_value=N_MIN, max_value=N_MAX, help_text="A power of two")
    r = serializers.ChoiceField(choices=[8])
    p = serializers.IntegerField(min_value=1, max_value=P_MAX)
    salt = serializers.CharField(help_text="16 bytes in base64")


class ExportCipherSerializer(serializers.Serializer[Any]):
    """How the key is used."""

    name = serializers.ChoiceField(choices=["aes-256-gcm"])
    nonce = serializers.CharField(help_text="12 bytes in base64")


class VaultExportSerializer(serializers.Serializer[Any]):
    """An encrypted vault, as `vaults.export_file` writes and reads it."""

    format = serializers.ChoiceField(choices=["runqy-vault"])
    version = serializers.ChoiceField(choices=[1])
    kdf = KeyDerivationSerializer()
    cipher = ExportCipherSerializer()
    data = serializers.CharField(help_text="In base64")  # type: ignore[assignment]


@extend_schema_field(VaultExportSerializer)
class VaultExportField(serializers.DictField):
    """An export as a JSON object; the operation reads it, as it reads files."""


class ImportVaultSerializer(SecretSerializer):
    """A vault to import."""

    passphrase = PassphraseField()
    export = VaultExportField(help_text="The response of the export")
    name = PatternField(
        rf"^{_VAULT_NAME}$",
        required=False,
        allow_blank=True,
        error_messages={"invalid": VAULT_RULE},
        help_text="The vault's name, if not the one in the export",
    )
    replace = StrictBooleanField(required=False, default=False, help_text="Replace a vault that exists")
    dry_run = StrictBooleanField(required=False, default=False, help_text="Only report what would be done")


class ImportedEntrySerializer(serializers.Serializer[Any]):
    """What an import does to an entry."""

    key = serializers.CharField()
    outcome = serializers.ChoiceField(choices=["added", "changed", "unchanged", "removed"])


class VaultImportedSerializer(serializers.Serializer[Any]):
    """What an import did or would do."""

    message = serializers.CharField()
    vault = serializers.CharField()
    is_new = serializers.BooleanField(help_text="Whether the import creates the vault")
    entries = ImportedEntrySerializer(many=True)
    published = PublishedField()


class DeletedSerializer(serializers.Serializer[Any]):
    """What was deleted."""

    message = serializers.CharField()
    published = PublishedField()
