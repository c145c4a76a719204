"""The app, whose command is `manage.py runqy_check`."""

from django.apps import AppConfig


class RunqyConfig(AppConfig):
    name = "runqy_sdk.django"
    label = "runqy_sdk"
