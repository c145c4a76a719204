"""The app configuration."""

from django.apps import AppConfig


class ConfigSyncConfig(AppConfig):
    """The signed copy of the configuration in Redis."""

    name = "runqy.config_sync"
