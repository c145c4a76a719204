"""The rows that maintenance could not handle."""

from django.db import models


class FailedRow(models.Model):
    """A row that a duty leaves out for a while, because it raised an unexpected error."""

    kind = models.CharField(max_length=32)
    """What it is a row of: `schedule`, `batch` …"""
    key = models.CharField(max_length=255)
    """Its primary key, or another name that is unique among its kind."""
    name = models.CharField(max_length=255)
    """What users call it."""
    queue = models.CharField(max_length=255, blank=True)
    """The queue concerned; empty if there is none, or several."""
    error = models.CharField(max_length=255)
    """The class of the error. Its text is in the log only: it may have a part of a payload."""
    times = models.PositiveIntegerField(default=1)
    since = models.DateTimeField()
    paused_until = models.DateTimeField()

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["kind", "key"], name="failed_row_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"
