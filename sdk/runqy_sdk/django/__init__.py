"""A backend of Django's tasks: Django 6, or Django 5.2 with the package `django-tasks`.

The setting TASKS names `runqy_sdk.django.RunqyBackend`, and a queue runs `python -m runqy_sdk.django`.
"""

from runqy_sdk.django.backend import RunqyBackend

__all__ = ["RunqyBackend"]
