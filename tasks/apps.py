"""Django's configuration of the app."""

from django.apps import AppConfig


class TasksConfig(AppConfig):
    """Tasks. They live in Redis; the only model has no table."""

    name = "tasks"
