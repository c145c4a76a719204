"""Registers the audit with Django."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """Who changed what."""

    name = "runqy.audit"
    label = "audit"
    verbose_name = "Audit"
