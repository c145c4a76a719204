"""The app configuration."""

from django.apps import AppConfig
from django.conf import settings

from runqy.core.environment.variables import warn_of_removed


class ApiConfig(AppConfig):
    """What all API views share. It has no models."""

    name = "runqy.api"
    label = "runqy_api"

    def ready(self) -> None:
        from runqy.api import checks  # noqa: F401, PLC0415 (checks register when imported, and need the settings)

        warn_of_removed(settings.RUNQY_REMOVED)  # each process with Django comes here once, after logging is configured
