"""Says how vaults look in answers, and in the schema. Values of secrets are masked before they come here."""

from typing import Any

from rest_framework import serializers
from runqy.api.moments import moment_of

from runqy.api.schema import ClosedBody
from runqy.audit.actors import ActorKind
from vaults.api.inputs import HIGHEST_VERSION
from vaults.export_file import N_MAX, N_MIN, P_MAX, PASSPHRASE_MAX, PASSPHRASE_MIN
from vaults.models import EntryVersion, Event, Vault
from vaults.queries import EntryPreview, EntryView, VaultView
from vaults.transfer import Import


def vault_summary(vault: Vault) -> dict[str, Any]:
    """Return a vault in the list; queries count its entries."""
    return {"name": vault.name, "description": vault.description, "entry_count": getattr(vault, "entry_count", 0)}


def vault_detail(vault: VaultView) -> dict[str, Any]:
    """Return a vault with its entries."""
    return {
        "name": vault.name,
        "description": vault.description,
        "entries": [entry_answer(entry) for entry in vault.entries],
        "created_at": moment_of(vault.created_at),
        "updated_at": moment_of(vault.updated_at),
    }


def entry_list(vault: VaultView) -> dict[str, Any]:
    """Return the entries of a vault."""
    return {"entries": [entry_answer(entry) for entry in vault.entries], "count": len(vault.entries)}


def entry_answer(entry: EntryView) -> dict[str, Any]:
    """Return one entry."""
    return {
        "key": entry.key,
        "value": entry.value,
        "is_secret": entry.is_secret,
        "version": entry.version,
        "updated_by": entry.updated_by,
        "created_at": moment_of(entry.created_at),
        "updated_at": moment_of(entry.updated_at),
    }


def version_answer(version: EntryVersion) -> dict[str, Any]:
    """Return what happened to an entry."""
    return {
        "version": version.version,
        "event": version.event,
        "at": moment_of(version.at),
        "actor_kind": version.actor_kind,
        "actor": version.actor_name,
    }


def import_answer(message: str, done: Import) -> dict[str, Any]:
    """Return what an import did or would do."""
    entries = [{"key": entry.key, "outcome": entry.outcome} for entry in done.entries]
    return {"message": message, "vault": done.vault, "is_new": done.is_new, "entries": entries}


class VaultSummary(serializers.Serializer[Vault]):
    """A vault in the list."""

    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    entry_count = serializers.IntegerField()


class VaultList(serializers.Serializer[object]):
    """All vaults, in order of their names."""

    vaults = VaultSummary(many=True)
    count = serializers.IntegerField()


class VaultBody(ClosedBody):
    """A new vault."""

    name = serializers.RegexField(r"^(?!import$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    description = serializers.RegexField(r"^[^\x00]*$", required=False)


class VaultName(serializers.Serializer[object]):
    """A vault without its entries."""

    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)


class VaultCreated(serializers.Serializer[object]):
    """The answer to a new vault."""

    message = serializers.CharField()
    vault = VaultName()


class VaultEntryOutput(serializers.Serializer[EntryView]):
    """An entry; `entry_answer` makes it."""

    key = serializers.CharField()
    value = serializers.CharField(help_text="Masked where it is a secret")
    is_secret = serializers.BooleanField()
    version = serializers.IntegerField(help_text="1, 2, 3 …: which value it is, counted over deletions")
    updated_by = serializers.CharField(help_text="Who changed it last")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class VaultOutput(serializers.Serializer[VaultView]):
    """A vault with its entries; `vault_detail` makes it."""

    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    entries = VaultEntryOutput(many=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class EntryList(serializers.Serializer[object]):
    """The entries of a vault, in order of their keys."""

    entries = VaultEntryOutput(many=True)
    count = serializers.IntegerField()


class EntryValue(ClosedBody):
    """The value of an entry to set."""

    value = serializers.CharField(help_text="At most 64 KiB")
    is_secret = serializers.BooleanField(required=False, default=True, help_text="Mask the value in answers")
    expected_version = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=HIGHEST_VERSION,
        help_text="Only if the entry is at this version; 0: only if it does not exist",
    )


class EntryBody(EntryValue):
    """An entry to set."""

    key = serializers.RegexField(r"^[A-Za-z_][A-Za-z0-9_]{0,254}$", help_text="Name of an environment variable")


class EntrySet(serializers.Serializer[object]):
    """What was set."""

    message = serializers.CharField()
    version = serializers.IntegerField(help_text="Of the entry now; as before if it had this value already")


class VersionOutput(serializers.Serializer[EntryVersion]):
    """What happened to an entry; `version_answer` makes it."""

    version = serializers.IntegerField()
    event = serializers.ChoiceField(choices=Event.values)
    at = serializers.DateTimeField()
    actor_kind = serializers.ChoiceField(choices=list(ActorKind))
    actor = serializers.CharField(help_text="Who did it, as the audit names them")


class VersionPage(serializers.Serializer[object]):
    """A page of what happened to an entry."""

    versions = VersionOutput(many=True)
    count = serializers.IntegerField(help_text="On this page")
    next = serializers.CharField(allow_null=True, help_text="Path of the next page")


class ExportBody(ClosedBody):
    """Under what a vault is sealed."""

    passphrase = serializers.CharField(min_length=PASSPHRASE_MIN, max_length=PASSPHRASE_MAX, trim_whitespace=False)


class ExportDerivation(serializers.Serializer[object]):
    """How the key comes from the passphrase."""

    name = serializers.ChoiceField(choices=["scrypt"])
    n = serializers.IntegerField(min_value=N_MIN, max_value=N_MAX, help_text="A power of two")
    r = serializers.ChoiceField(choices=[8])
    p = serializers.IntegerField(min_value=1, max_value=P_MAX)
    salt = serializers.CharField(help_text="16 bytes in base64")


class ExportCipher(serializers.Serializer[object]):
    """How the key is used."""

    name = serializers.ChoiceField(choices=["aes-256-gcm"])
    nonce = serializers.CharField(help_text="12 bytes in base64")


class SealedExport(serializers.Serializer[object]):
    """A vault, sealed; `vaults.export_file` makes it."""

    format = serializers.ChoiceField(choices=["runqy-vault"])
    version = serializers.ChoiceField(choices=[1])
    kdf = ExportDerivation()
    cipher = ExportCipher()
    data = serializers.CharField(help_text="In base64")  # type: ignore[assignment]


class ImportBody(ExportBody):
    """A vault to import."""

    export = SealedExport(help_text="What the export answered")
    name = serializers.RegexField(
        r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", required=False, help_text="Of the vault, if not as in the export"
    )
    replace = serializers.BooleanField(required=False, default=False, help_text="A vault that is there")
    dry_run = serializers.BooleanField(required=False, default=False, help_text="Only tell what would be done")


class ImportedEntry(serializers.Serializer[EntryPreview]):
    """What an import does to an entry."""

    key = serializers.CharField()
    outcome = serializers.ChoiceField(choices=["added", "changed", "unchanged", "removed"])


class ImportOutput(serializers.Serializer[Import]):
    """What an import did or would do; `import_answer` makes it."""

    message = serializers.CharField()
    vault = serializers.CharField()
    is_new = serializers.BooleanField(help_text="Whether the vault is made by it")
    entries = ImportedEntry(many=True)


class Message(serializers.Serializer[object]):
    """What was done."""

    message = serializers.CharField()
