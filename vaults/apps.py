"""Registers the vaults with Django."""

from django.apps import AppConfig


class VaultsConfig(AppConfig):
    """Secrets, encrypted."""

    name = "vaults"

    def ready(self) -> None:
        """Register the maintenance duties."""
        from vaults import maintenance  # noqa: F401, PLC0415 (duties register when imported, and need the models)
