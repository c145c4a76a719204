"""The Django app of batches."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    """Tasks that have a callback together."""

    name = "batches"

    def ready(self) -> None:
        from batches import ends  # noqa: F401, PLC0415 (it registers a consumer when imported, and needs the models)
