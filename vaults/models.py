"""The models of vaults, their encrypted entries, versions and deliveries, and the published document of a vault."""

import uuid
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import ClassVar

import msgspec
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Substr

from runqy.core.formats.json_decoding import read_json
from runqy.core.formats.names import QUEUE_NAME_MAX_LENGTH, VARIABLE_NAME_MAX_LENGTH, VAULT_NAME_MAX_LENGTH
from runqy.errors import VaultNotFound, VaultUnavailable
from vaults.crypto import KEY_ID_AT, KEY_ID_BYTES, EntryAAD, SealedAAD, get_keyring
from vaults.entry_rules import EntryUsage, vault_name_error
from vaults.validators import validate_description, validate_entry_key, validate_git_hosts, validate_vault_name


class VaultQuerySet(models.QuerySet["Vault"]):
    def find_named(self, name: str) -> "Vault | None":
        # PostgreSQL refuses a query with NUL in it.
        return None if vault_name_error(name) else self.filter(name=name).first()

    def get_named(self, name: str) -> "Vault":
        vault = self.find_named(name)
        if vault is None:
            raise VaultNotFound(f"No vault {name[:80]!r}.")
        return vault


class Vault(models.Model):
    """A named set of secrets."""

    name = models.CharField(max_length=VAULT_NAME_MAX_LENGTH, unique=True, validators=[validate_vault_name])
    description = models.TextField(blank=True, validators=[validate_description])
    replacements = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    """How often a change was saved that replaces processes at once."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    objects: ClassVar = VaultQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def etag(self) -> str:
        """A token that changes with the vault and its entries."""
        return f"{self.pk}-{self.updated_at.timestamp():.6f}"


KEY_ID = Substr("ciphertext", KEY_ID_AT + 1, KEY_ID_BYTES, output_field=models.BinaryField())
"""For queries: the id of the master key that encrypted a ciphertext."""
CIPHERTEXT_HEAD = Substr("ciphertext", 1, KEY_ID_AT + KEY_ID_BYTES, output_field=models.BinaryField())
"""For queries: the format of a ciphertext and the id of its master key."""


HOSTS_MISSING = "A git token requires the hosts that it may be sent to."
HOSTS_UNUSED = "Hosts require the usage git_token or both."


class VaultEntry(models.Model):
    """An encrypted value."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="entries")
    key = models.CharField(max_length=VARIABLE_NAME_MAX_LENGTH, validators=[validate_entry_key])
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
    """The revision of the configuration in which it was encrypted. Never reused: older ciphertexts are rejected."""
    version = models.PositiveIntegerField()
    """The number of the value. It continues to grow when the entry is deleted and created again."""
    updated_by = models.CharField(max_length=300)
    sealed_at = models.DateTimeField()
    """When the value was encrypted: when it was set or the master key was rotated."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["key"]
        verbose_name_plural = "vault entries"
        constraints = [
            models.UniqueConstraint(fields=["vault", "key"], name="one_entry_for_each_key"),
            models.CheckConstraint(
                condition=models.Q(usage=EntryUsage.ENVIRONMENT.value) | ~models.Q(git_hosts=[]),
                name="git_token_has_hosts",
                violation_error_message=HOSTS_MISSING,
            ),
            models.CheckConstraint(
                condition=~models.Q(usage=EntryUsage.ENVIRONMENT.value) | models.Q(git_hosts=[]),
                name="only_git_token_has_hosts",
                violation_error_message=HOSTS_UNUSED,
            ),
        ]

    def __str__(self) -> str:
        return self.key

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        # Not the key of a stored entry: it cannot change, and rules for keys may be newer than the entry.
        super().clean_fields(exclude={*(exclude or ()), *(("key",) if self.pk else ())})

    def clean(self) -> None:
        # The constraints check the same, but their errors name no field.
        is_token = self.usage != EntryUsage.ENVIRONMENT.value
        if is_token and not self.git_hosts:
            raise ValidationError({"git_hosts": HOSTS_MISSING})
        if self.git_hosts and not is_token:
            raise ValidationError({"git_hosts": HOSTS_UNUSED})

    def get_usage(self) -> EntryUsage:
        return EntryUsage(self.usage)

    def allows(self, usage: EntryUsage, git_hosts: Iterable[str]) -> bool:
        """Return whether the entry may be used in this way and sent to these hosts."""
        known = self.get_usage()
        is_wider = (usage.is_variable and not known.is_variable) or (usage.is_git_token and not known.is_git_token)
        return not is_wider and set(git_hosts) <= set(self.git_hosts)

    @property
    def aad(self) -> EntryAAD:
        """The associated data of the ciphertext."""
        return EntryAAD(self.vault.name, self.key, self.revision, self.usage, tuple(self.git_hosts), self.is_secret)

    def decrypt(self) -> str:
        """Return the value. Raise VaultLocked, VaultUnavailable."""
        return get_keyring().decrypt(self.aad, bytes(self.ciphertext))

    def has_value(self, value: str) -> bool:
        """Return whether the entry has this value; False if it cannot be decrypted. Raise VaultLocked."""
        try:
            return self.decrypt() == value
        except VaultUnavailable:
            return False

    @property
    def displayed_value(self) -> str:
        """The value, masked if it is a secret: what the admin, the API and the CLI show."""
        value = self.decrypt()
        return mask(value) if self.is_secret else value


def mask(value: str) -> str:
    """Return a masked secret. Below 12 characters nothing of it is shown, otherwise two characters at either end."""
    return "****" if len(value) < 12 else f"{value[:2]}****{value[-2:]}"


class SealedSecret(models.Model):
    """A secret of the server's own, such as that of a webhook, encrypted as entries are. After a rotation the previous
    one is valid for a while.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    purpose = models.CharField(max_length=32)
    ciphertext = models.BinaryField()
    previous_ciphertext = models.BinaryField(null=True)
    previous_until = models.DateTimeField(null=True)
    sealed_at = models.DateTimeField(auto_now=True)
    """When it was encrypted: when it was set, or the master key was rotated."""
    shown_at = models.DateTimeField(null=True)
    """When it was shown, which happens once."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.purpose} {self.id}"

    @property
    def aad(self) -> SealedAAD:
        return SealedAAD(self.purpose, str(self.id))

    @property
    def ciphertexts(self) -> list[bytes]:
        """The ciphertext, and the previous one if there is one."""
        return [bytes(each) for each in (self.ciphertext, self.previous_ciphertext) if each is not None]

    def seal(self, text: str) -> None:
        """Set the secret, without saving it. Raise VaultLocked."""
        self.ciphertext = get_keyring().encrypt(self.aad, text)

    def unseal(self) -> str:
        """Return the secret. Raise VaultLocked, VaultUnavailable."""
        return get_keyring().decrypt(self.aad, bytes(self.ciphertext))

    def unseal_valid(self, now: datetime) -> list[str]:
        """Return the secret, and the previous one while it is valid. Raise VaultLocked, VaultUnavailable."""
        found = [self.unseal()]
        if self.previous_ciphertext is not None and self.find_previous_until(now):
            found.append(get_keyring().decrypt(self.aad, bytes(self.previous_ciphertext)))
        return found

    def find_previous_until(self, now: datetime) -> datetime | None:
        """Return until when the previous secret is valid; None if none is."""
        return self.previous_until if self.previous_until and now < self.previous_until else None


class PublishedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry in the published document of its vault. Only the server can decrypt it."""

    key: str
    revision: int
    version: int
    ciphertext: bytes
    usage: EntryUsage
    git_hosts: tuple[str, ...]
    is_secret: bool

    @classmethod
    def of(cls, entry: VaultEntry) -> "PublishedEntry":
        return cls(
            key=entry.key,
            revision=entry.revision,
            version=entry.version,
            ciphertext=bytes(entry.ciphertext),
            usage=entry.get_usage(),
            git_hosts=tuple(entry.git_hosts),
            is_secret=entry.is_secret,
        )

    def aad(self, vault: str) -> EntryAAD:
        """Return the associated data of the ciphertext, in a vault of this name."""
        return EntryAAD(vault, self.key, self.revision, self.usage.value, self.git_hosts, self.is_secret)


class PublishedVault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The published document of a vault: its entries, in the order of their keys, with the database's ciphertexts."""

    entries: tuple[PublishedEntry, ...]
    replacements: int = 0
    """Changes when processes are to be replaced at once."""

    @classmethod
    def of(cls, entries: Iterable[VaultEntry], *, replacements: int = 0) -> "PublishedVault":
        published = tuple(map(PublishedEntry.of, sorted(entries, key=lambda entry: entry.key)))
        return cls(entries=published, replacements=replacements)

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, body: bytes) -> "PublishedVault":
        return read_json(body, cls)


class Event(models.TextChoices):
    """Changes of an entry."""

    SET = "set"
    ROTATED = "rotated"
    DELETED = "deleted"


class EntryVersion(models.Model):
    """A change of an entry: by whom and when, without the value. It outlives the entry and its vault."""

    vault = models.CharField(max_length=VAULT_NAME_MAX_LENGTH)
    key = models.CharField(max_length=VARIABLE_NAME_MAX_LENGTH)
    version = models.PositiveIntegerField()
    """1, 2, 3 … for each change of the value and each deletion. A rotation has the number of the value that it kept."""
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
        return f"{self.vault}/{self.key} {self.version}: {self.event} by {self.actor_name}"


class VaultDelivery(models.Model):
    """The entries of a vault that a worker received when it registered. It outlives the vault, the queue and the API
    key.

    Ids are in chronological order.
    """

    delivery = models.CharField(max_length=32)
    """The same for all vaults of one registration."""
    at = models.DateTimeField()
    worker_id = models.CharField(max_length=128)
    queue = models.CharField(max_length=QUEUE_NAME_MAX_LENGTH)
    vault = models.CharField(max_length=VAULT_NAME_MAX_LENGTH)
    versions = models.JSONField()
    """Versions by entry key."""
    state = models.CharField(max_length=32)
    """`vault_state` of the whole vault. The worker has the current values as long as the state is the same."""
    key_id = models.CharField(max_length=32, blank=True)
    """The id of the API key; empty for keys of the environment."""
    key_name = models.CharField(max_length=100)
    address = models.CharField(max_length=100, blank=True)

    is_current: bool
    """Whether no entry of the vault was set or deleted since. Set by the queries of `access_log`."""

    class Meta:
        verbose_name_plural = "vault deliveries"
        constraints = [models.UniqueConstraint(fields=["delivery", "vault"], name="one_record_for_each_delivery")]
        indexes = [
            models.Index(fields=["vault", "-id"], name="deliveries_of_a_vault"),
            models.Index(fields=["worker_id", "vault", "id"], name="deliveries_to_a_worker"),
            models.Index(fields=["at"], name="deliveries_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.vault} to {self.worker_id}"
