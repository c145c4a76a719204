"""The Django app of batches."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    """Tasks that have a callback together."""

    name = "batches"

    def ready(self) -> None:
        from batches import ends, keys  # noqa: F401, PLC0415 (they register functions when imported, and need the models)
