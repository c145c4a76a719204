"""Makes Django know the API's checks."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """The plumbing of the API; it has no models."""

    name = "runqy.api"
    label = "runqy_api"

    def ready(self) -> None:
        """Register the checks."""
        from runqy.api import checks  # noqa: F401, PLC0415 (registers by being imported, once apps are ready)
