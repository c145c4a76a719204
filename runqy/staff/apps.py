"""Registers what all admin pages share with Django."""

from django.apps import AppConfig


class StaffConfig(AppConfig):
    """The admin as staff see it."""

    name = "runqy.staff"
    label = "staff"
