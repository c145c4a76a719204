"""Django's configuration of the app."""

from django.apps import AppConfig


class MaintenanceConfig(AppConfig):
    """The maintenance process; it has no models."""

    name = "runqy.maintenance"
