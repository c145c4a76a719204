"""Makes Django know the workers."""

from django.apps import AppConfig


class WorkersConfig(AppConfig):
    """What the server knows about workers; what they do is in `runtime` and `deploy`, which know no Django."""

    name = "workers"

    def ready(self) -> None:
        """Register the system checks."""
        from workers import checks  # noqa: F401, PLC0415 (checks register when imported, and need the settings)
