"""The app configuration."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """Audit records: who changed what."""

    name = "runqy.audit"
    label = "audit"
    verbose_name = "Audit"

    def ready(self) -> None:
        """Register the maintenance duties."""
        from runqy.audit import maintenance  # noqa: F401, PLC0415 (duties register when imported, and need the models)
