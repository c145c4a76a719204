"""Managers of models."""

from typing import Any

from django.db import models


class EmptyManager(models.Manager[Any]):
    """Returns no rows of a model without a table, which exists for permissions and admin URLs; `dumpdata` reads all."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()
