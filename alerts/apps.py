"""The Django app of alerts."""

from django.apps import AppConfig


class AlertsConfig(AppConfig):
    """Conditions that users should look at: found by rules, stored, and sent to a webhook."""

    name = "alerts"

    def ready(self) -> None:
        """Register the activity of queues, and what their deletion cleans."""
        from alerts import operations, queue_activity  # noqa: F401, PLC0415 (they register when imported)
