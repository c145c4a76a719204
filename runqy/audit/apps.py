"""The app configuration."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """Audit records: who changed what."""

    name = "runqy.audit"
    label = "audit"
    verbose_name = "Audit"
