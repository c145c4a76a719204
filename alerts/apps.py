"""The Django app of alerts."""

from django.apps import AppConfig


class AlertsConfig(AppConfig):
    """Conditions that users should look at: found by rules, stored, and sent to a webhook."""

    name = "alerts"

    def ready(self) -> None:
        from alerts import checks  # noqa: F401, PLC0415 (checks register when imported, and need the settings)
