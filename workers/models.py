"""A model of workers, for Django's permissions. Their data is in Redis."""

from django.db import models

from runqy.admin_site.managers import EmptyManager


class Worker(models.Model):
    """A worker, for permissions and the URLs of the admin. It has no table."""

    id = models.CharField(primary_key=True, max_length=255)

    objects = EmptyManager()

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (("stop_worker", "Can drain, restart and stop workers"),)

    def __str__(self) -> str:
        return self.id
