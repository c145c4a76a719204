"""Gives workers a name in Django, for its permissions: what is known about them lives in Redis."""

from django.db import models


class NoRows(models.Manager["Worker"]):
    """Finds nothing, without looking for a table: `manage.py dumpdata` asks for the rows of every model."""

    def get_queryset(self) -> models.QuerySet["Worker"]:
        """Return no rows."""
        return super().get_queryset().none()


class Worker(models.Model):
    """A worker, as far as permissions and the admin's addresses need one; there is no table."""

    id = models.CharField(primary_key=True, max_length=255)

    objects = NoRows()

    class Meta:
        managed = False
        default_permissions = ("view",)

    def __str__(self) -> str:
        """Return the id."""
        return self.id
