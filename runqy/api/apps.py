"""The app configuration."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """What all API views share. It has no models."""

    name = "runqy.api"
    label = "runqy_api"

    def ready(self) -> None:
        from runqy.api import checks  # noqa: F401, PLC0415 (checks register when imported, and need the settings)
