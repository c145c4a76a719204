"""Django's configuration of the app."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """What every API view shares; it has no models."""

    name = "runqy.api"
    label = "runqy_api"

    def ready(self) -> None:
        """Register the system checks."""
        from runqy.api import checks  # noqa: F401, PLC0415 (checks register when imported, and need the settings)
