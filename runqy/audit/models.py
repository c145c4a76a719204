"""Audit records, which are only ever appended."""

import re

from django.db import models

from runqy.audit.actors import ActorKind

MAX_TEXT_LENGTH = 300
_KEY_NAME = re.compile(r"(\d+) (.+)", re.DOTALL)


def fit_text(text: str) -> str:
    """Return a text that fits a column: unprintable characters are escaped, and the result is truncated."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)[:MAX_TEXT_LENGTH]


class AuditRecord(models.Model):
    """A record of who changed what, and when. Nothing changes it, and only retention deletes it."""

    number = models.BigAutoField(primary_key=True)
    """Ascending; numbers of changes that were rolled back are missing."""
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
    """JSON, the result of `encode_changes`."""

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
