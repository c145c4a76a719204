"""Makes Django know the tasks."""

from django.apps import AppConfig


class TasksConfig(AppConfig):
    """Tasks live in Redis; the app's only model has no table."""

    name = "tasks"
