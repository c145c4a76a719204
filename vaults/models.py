"""The rows of vaults and of their encrypted entries."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Substr

from vaults.crypto import KEY_ID_AT, KEY_ID_BYTES, Place
from vaults.names import EntryUsage, normalize_git_hosts


def validate_git_hosts(hosts: Any) -> None:
    """Raise ValidationError for what is no list of hosts in their one spelling."""
    try:
        is_valid = isinstance(hosts, list) and normalize_git_hosts(map(str, hosts)) == hosts
    except ValueError as error:
        raise ValidationError(str(error)) from error
    if not is_valid:
        raise ValidationError("Must be a sorted list of hosts.")


class Vault(models.Model):
    """A named set of secrets."""

    name = models.CharField(max_length=64, unique=True)
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        permissions = [("export_vault", "Can export vaults with all values")]

    def __str__(self) -> str:
        """Name the vault."""
        return self.name

    @property
    def etag(self) -> str:
        """Return what changes with everything about the vault, its entries too."""
        return f"{self.pk}-{self.updated_at.timestamp():.6f}"


KEY_ID = Substr("ciphertext", KEY_ID_AT + 1, KEY_ID_BYTES, output_field=models.BinaryField())
"""For queries: the id of the master key that an entry's ciphertext says it was made with."""


class VaultEntry(models.Model):
    """One value, as ciphertext."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="entries")
    key = models.CharField(max_length=255)
    ciphertext = models.BinaryField()
    is_secret = models.BooleanField(default=True, help_text="Mask the value wherever it is shown.")
    usage = models.CharField(
        max_length=16,
        choices=[(usage.value, usage.value.replace("_", " ")) for usage in EntryUsage],
        default=EntryUsage.ENVIRONMENT.value,
        help_text="What it may be used for: a variable of tasks, a git token, or both.",
    )
    git_hosts = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_git_hosts],
        help_text="Hosts that a git token may be sent to, such as github.com.",
    )
    revision = models.BigIntegerField()
    """Of the configuration, when the ciphertext was made; never used twice, so that no older ciphertext fits."""
    version = models.PositiveIntegerField()
    """The number of the value, for people; it goes on counting when the entry is deleted and made anew."""
    updated_by = models.CharField(max_length=300)
    """Who changed it last."""
    sealed_at = models.DateTimeField()
    """When the ciphertext was made: with the value, or by a rotation."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["key"]
        verbose_name_plural = "vault entries"
        constraints = [models.UniqueConstraint(fields=["vault", "key"], name="one_entry_for_each_key")]

    def __str__(self) -> str:
        """Name the entry."""
        return self.key

    def get_usage(self) -> EntryUsage:
        """Return what the entry may be used for."""
        return EntryUsage(self.usage)

    def place(self, vault: str) -> Place:
        """Return what the ciphertext is bound to, in a vault of this name."""
        return Place(vault, self.key, self.revision)


class Event(models.TextChoices):
    """What can happen to an entry."""

    SET = "set"
    ROTATED = "rotated"
    DELETED = "deleted"
    IMPORTED = "imported"


class EntryVersion(models.Model):
    """What happened to an entry, by whom and when; never the value. It outlives the entry and its vault."""

    vault = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    version = models.PositiveIntegerField()
    """1, 2, 3 … for each change of the value and each deletion; a rotation has the number of the value it kept."""
    event = models.CharField(max_length=16, choices=Event.choices)
    at = models.DateTimeField()
    actor_kind = models.CharField(max_length=16)
    actor_id = models.CharField(max_length=300, blank=True)
    actor_name = models.CharField(max_length=300)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["vault", "key", "-id"], name="versions_of_an_entry")]
        constraints = [
            models.UniqueConstraint(
                fields=["vault", "key", "version"],
                condition=~models.Q(event=Event.ROTATED),
                name="one_change_for_each_version",
            )
        ]

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.vault}/{self.key} {self.version}: {self.event} by {self.actor_name}"


class VaultDelivery(models.Model):
    """What a worker was handed out of one vault when it registered. It outlives the vault, the queue and the key.

    Ids are in the order in which it happened: notes are stored from the oldest on.
    """

    delivery = models.CharField(max_length=32)
    """The same for all vaults of one registration."""
    at = models.DateTimeField()
    worker_id = models.CharField(max_length=128)
    queue = models.CharField(max_length=128)
    vault = models.CharField(max_length=64)
    versions = models.JSONField()
    """Of the entries whose values it got, by their keys."""
    state = models.CharField(max_length=32)
    """Of the whole vault: as long as it is the vault's, the worker has the current values."""
    key_id = models.CharField(max_length=32, blank=True)
    """The row of the API key; empty for keys of the environment."""
    key_name = models.CharField(max_length=100)
    address = models.CharField(max_length=100, blank=True)

    class Meta:
        verbose_name_plural = "vault deliveries"
        constraints = [models.UniqueConstraint(fields=["delivery", "vault"], name="one_record_for_each_delivery")]
        indexes = [
            models.Index(fields=["vault", "-id"], name="deliveries_of_a_vault"),
            models.Index(fields=["worker_id", "vault", "id"], name="deliveries_to_a_worker"),
            models.Index(fields=["at"], name="deliveries_by_age"),
        ]

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.vault} to {self.worker_id}"
