"""The manager of models without a table, which exist for permissions and admin URLs."""

from typing import Any

from django.db import models


class EmptyManager(models.Manager[Any]):
    """Returns no rows without a query: `manage.py dumpdata` reads every model."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()
