"""Audit records, which are append-only, and the head of their chain."""

import json
import re
from datetime import UTC, datetime

from django.conf import settings
from django.db import models

from runqy.audit.actors import ActorKind
from runqy.config import signing

MAX_TEXT_LENGTH = 300
CHAIN_BEGIN = "0" * 64
_KEY_NAME = re.compile(r"(\d+) (.+)", re.DOTALL)


def chain_key(secret_key: str | None = None) -> bytes:
    """Return the key of the chain's digests, derived from a secret key, by default from that of the server."""
    return signing.derive_key(secret_key or settings.SECRET_KEY, "runqy audit chain")


def fit_text(text: str) -> str:
    """Return a text that fits a column: unprintable characters are escaped, and the result is truncated."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)[:MAX_TEXT_LENGTH]


class AuditRecord(models.Model):
    """A record of who changed what, and when. Triggers in the database refuse to change or delete it."""

    number = models.BigIntegerField(unique=True)
    """1, 2, 3 … without a gap."""
    at = models.DateTimeField(db_index=True)
    """Time of the change."""
    recorded_at = models.DateTimeField(null=True)
    """When a record that waited in Redis was stored; None if it was stored with the change."""
    event_id = models.CharField(max_length=32, null=True, unique=True)
    """The id of a record that waited in Redis. Unique, so that the record is stored once."""
    actor_kind = models.CharField(max_length=16, choices=[(kind.value, kind.value) for kind in ActorKind])
    actor_id = models.CharField(max_length=MAX_TEXT_LENGTH, blank=True)
    actor_name = models.CharField(max_length=MAX_TEXT_LENGTH)
    address = models.CharField(max_length=MAX_TEXT_LENGTH, blank=True)
    request_id = models.CharField(max_length=MAX_TEXT_LENGTH, blank=True)
    action = models.CharField(max_length=64)
    object_kind = models.CharField(max_length=32)
    object_name = models.CharField(max_length=MAX_TEXT_LENGTH)
    changes = models.TextField()
    """JSON, as text: a JSON column would not return the same bytes, which are part of the digest."""
    previous = models.CharField(max_length=64)
    digest = models.CharField(max_length=64)

    class Meta:
        ordering = ["-number"]
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["object_kind", "object_name", "-number"], name="audit_by_object"),
            models.Index(fields=["action", "-number"], name="audit_by_action"),
            models.Index(fields=["actor_name", "-number"], name="audit_by_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.number}: {self.describe_object()}, {self.describe_action()} by {self.actor_name}"

    def describe_action(self) -> str:
        """Return what was done to the object: `created`, `cancellation requested`."""
        return self.action.rpartition(".")[2].replace("_", " ")

    def describe_object(self) -> str:
        """Return the kind and the name of the object: `queue mail`, `API key deploy (id 3)`."""
        kind, name = self.object_kind.replace("_", " "), self.object_name
        if self.object_kind == "api_key":
            kind = "API key"
            if match := _KEY_NAME.fullmatch(name):
                name = f"{match[2]} (id {match[1]})"
        elif self.object_kind == "alert_rule":
            rule, _, queue = name.partition("/")
            name = f"{rule.replace('_', ' ')} of {queue or 'all queues'}"
        return f"{kind} {name}"

    def chained_digest(self, key: bytes) -> str:
        """Return the digest of the record's content, including its predecessor's digest."""
        content = [
            *(self.previous, self.number, _encode_time(self.at), _encode_time(self.recorded_at), self.event_id),
            *(self.actor_kind, self.actor_id, self.actor_name, self.address, self.request_id),
            *(self.action, self.object_kind, self.object_name, self.changes),
        ]
        return signing.mac(key, json.dumps(content, separators=(",", ":")).encode()).decode()


def _encode_time(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat() if time else None


class AuditHead(models.Model):
    """The last record's number and digest: a single row, locked while records are appended."""

    number = models.BigIntegerField(default=0)
    digest = models.CharField(max_length=64, default=CHAIN_BEGIN)
    removed = models.BigIntegerField(default=0)
    """Records up to this number may be deleted; triggers refuse to delete others."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"
