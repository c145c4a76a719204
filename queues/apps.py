"""Registers the queues with Django."""

from django.apps import AppConfig


class QueuesConfig(AppConfig):
    """Queues, their deployments and limits."""

    name = "queues"

    def ready(self) -> None:
        """Register the maintenance duties."""
        from queues import maintenance  # noqa: F401, PLC0415 (duties register when imported, and need the models)
