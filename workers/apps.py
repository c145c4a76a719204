"""The Django app of workers."""

from django.apps import AppConfig


class WorkersConfig(AppConfig):
    """The server's part of workers; `runtime` and `deploy` are the workers themselves and import no Django."""

    name = "workers"

    def ready(self) -> None:
        from workers import checks  # noqa: F401, PLC0415 (checks register when they are imported, and need the settings)
