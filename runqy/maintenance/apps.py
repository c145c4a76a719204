"""Django's configuration of the app."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class MaintenanceConfig(AppConfig):
    """The maintenance process; it has no models."""

    name = "runqy.maintenance"

    def ready(self) -> None:
        """Import the `duties` of all apps."""
        autodiscover_modules("duties")
