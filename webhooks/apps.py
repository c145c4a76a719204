"""The Django app of webhooks."""

from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    """Endpoints that are told of what happened, and the deliveries to them."""

    name = "webhooks"

    def ready(self) -> None:
        """Register the system checks and the consumer of ends."""
        from webhooks import checks, ends  # noqa: F401, PLC0415 (they register when imported, and need the settings)
