"""Django's configuration of the app."""

from django.apps import AppConfig


class TasksConfig(AppConfig):
    """Tasks. They live in Redis; the only model has no table."""

    name = "tasks"

    def ready(self) -> None:
        """Register the maintenance duties."""
        from tasks import maintenance  # noqa: F401, PLC0415 (duties register when imported, and need the models)
