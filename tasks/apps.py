"""Makes Django know the tasks."""

from django.apps import AppConfig


class TasksConfig(AppConfig):
    """Tasks live in Redis; this app has no models."""

    name = "tasks"
