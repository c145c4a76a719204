"""Registers the queues with Django."""

from django.apps import AppConfig


class QueuesConfig(AppConfig):
    """Queues, their deployments and limits."""

    name = "queues"
