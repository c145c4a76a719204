"""The app configuration."""

from django.apps import AppConfig


class QueuesConfig(AppConfig):
    """Queues, their deployments and limits."""

    name = "queues"
