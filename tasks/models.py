"""Gives tasks a name in Django, for its permissions: the tasks themselves live in Redis."""

from django.db import models


class NoRows(models.Manager["Task"]):
    """Finds nothing, without looking for a table: `manage.py dumpdata` asks for the rows of every model."""

    def get_queryset(self) -> models.QuerySet["Task"]:
        """Return no rows."""
        return super().get_queryset().none()


class Task(models.Model):
    """A task, as far as permissions and the admin's addresses need one; there is no table."""

    id = models.CharField(primary_key=True, max_length=255)

    objects = NoRows()

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (
            ("enqueue_task", "Can put tasks on queues"),
            ("run_task", "Can run tasks before their time, or once more"),
            ("cancel_task", "Can cancel tasks"),
            ("archive_task", "Can archive tasks"),
            ("delete_task", "Can delete tasks"),
            ("view_payload", "Can see payloads, results and errors where they are hidden"),
        )

    def __str__(self) -> str:
        """Return the id."""
        return self.id
