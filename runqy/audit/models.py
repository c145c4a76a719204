"""The rows of the audit: records that are only ever appended, and the head of their chain."""

from typing import Any, Never

from django.db import models

from runqy.audit.actors import ActorKind
from runqy.audit.chain import CHAIN_BEGIN, PLAIN, ChainKey, chain_digest

LONGEST_TEXT = 300


class AppendedOnly(models.QuerySet["AuditRecord"]):
    """Records, to read and to append to; triggers in the database refuse the rest too."""

    def update(self, **_: Any) -> Never:
        """Refuse."""
        raise TypeError("Audit records are never changed.")

    def delete(self) -> Never:
        """Refuse."""
        raise TypeError("Audit records are never deleted.")

    def bulk_update(self, *_: Any, **__: Any) -> Never:
        """Refuse."""
        raise TypeError("Audit records are never changed.")


class AuditRecord(models.Model):
    """Who changed what, and when."""

    number = models.BigIntegerField(unique=True)
    """1, 2, 3 … without a gap."""
    at = models.DateTimeField(db_index=True)
    actor_kind = models.CharField(max_length=16, choices=[(kind.value, kind.value) for kind in ActorKind])
    actor_id = models.CharField(max_length=LONGEST_TEXT, blank=True)
    actor_name = models.CharField(max_length=LONGEST_TEXT)
    address = models.CharField(max_length=LONGEST_TEXT, blank=True)
    request_id = models.CharField(max_length=LONGEST_TEXT, blank=True)
    action = models.CharField(max_length=64)
    object_kind = models.CharField(max_length=32)
    object_name = models.CharField(max_length=LONGEST_TEXT)
    changes = models.TextField()
    """JSON, as text: a database that parsed it would not return the same bytes."""
    previous = models.CharField(max_length=64)
    digest = models.CharField(max_length=64)
    key_id = models.CharField(max_length=16, default=PLAIN, db_default=PLAIN)
    """The key of the digest (`runqy/audit/chain.py`)."""

    objects = AppendedOnly.as_manager()

    class Meta:
        ordering = ["-number"]
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["object_kind", "object_name", "-number"], name="audit_by_object"),
            models.Index(fields=["action", "-number"], name="audit_by_action"),
            models.Index(fields=["actor_name", "-number"], name="audit_by_actor"),
        ]

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.number}: {self.actor_name} {self.action} {self.object_name}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Append the record; one that was appended stays as it is."""
        if not self._state.adding:
            raise TypeError("Audit records are never changed.")
        super().save(*args, **kwargs)

    def delete(self, *_: Any, **__: Any) -> Never:
        """Refuse."""
        raise TypeError("Audit records are never deleted.")

    def chained_digest(self, key: ChainKey | None) -> str:
        """Return the digest over all that the record says and the digest of the one before it."""
        return chain_digest(self, key)


class AuditHead(models.Model):
    """The one row that every record locks while it is appended."""

    number = models.BigIntegerField(default=0)
    digest = models.CharField(max_length=64, default=CHAIN_BEGIN)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        """Say where the chain ends."""
        return f"{self.number}:{self.digest}"
