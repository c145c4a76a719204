"""Registers the vaults with Django."""

from django.apps import AppConfig


class VaultsConfig(AppConfig):
    """Secrets, encrypted."""

    name = "vaults"
