"""Says how vaults look in answers, and in the schema. Values of secrets are masked before they come here."""

from typing import Any

from rest_framework import serializers

from runqy.api.moments import moment_of
from vaults.models import Vault
from vaults.queries import EntryView, VaultView


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
        "created_at": moment_of(entry.created_at),
        "updated_at": moment_of(entry.updated_at),
    }


class VaultSummary(serializers.Serializer[Vault]):
    """A vault in the list."""

    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    entry_count = serializers.IntegerField()


class VaultList(serializers.Serializer[object]):
    """All vaults, in order of their names."""

    vaults = VaultSummary(many=True)
    count = serializers.IntegerField()


class VaultBody(serializers.Serializer[object]):
    """A new vault."""

    name = serializers.RegexField(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    description = serializers.CharField(required=False, allow_blank=True)


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


class EntryBody(serializers.Serializer[object]):
    """An entry to set."""

    key = serializers.RegexField(r"^[A-Za-z_][A-Za-z0-9_]{0,254}$", help_text="Name of an environment variable")
    value = serializers.CharField(help_text="At most 64 KiB")
    is_secret = serializers.BooleanField(required=False, default=True, help_text="Mask the value in answers")


class Message(serializers.Serializer[object]):
    """What was done."""

    message = serializers.CharField()
