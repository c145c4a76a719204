"""Django's configuration of the app."""

from django.apps import AppConfig


class TasksConfig(AppConfig):
    """Tasks. They live in Redis; the only model has no table."""

    name = "tasks"

    def ready(self) -> None:
        """Register the system checks."""
        from tasks import checks  # noqa: F401, PLC0415 (checks register when imported)
