"""Django's configuration of the app."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class MaintenanceConfig(AppConfig):
    """The maintenance process. It has no models."""

    name = "runqy.maintenance"

    def ready(self) -> None:
        autodiscover_modules("duties")
