"""Makes Django know the alerts."""

from django.apps import AppConfig


class AlertsConfig(AppConfig):
    """Conditions that staff should look at: found by rules, stored, and sent to a webhook."""

    name = "alerts"

    def ready(self) -> None:
        """Register the system checks and the maintenance duties."""
        from alerts import checks, maintenance  # noqa: F401, PLC0415 (they register when imported, and need the settings)
