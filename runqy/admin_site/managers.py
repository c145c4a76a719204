"""Managers of models."""

from typing import Any

from django.db import models


class EmptyManager(models.Manager[Any]):
    """The manager of a model without a table, which exists for permissions and admin URLs."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()  # `dumpdata` reads the rows of all models
