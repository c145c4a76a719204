"""The app configuration."""

from django.apps import AppConfig


class ConfigurationConfig(AppConfig):
    """The signed copy of the configuration in Redis."""

    name = "runqy.configuration"
    label = "config_sync"  # of its tables, since before the folder had this name
