"""Registers the accounts with Django."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """The keys that programs enter with."""

    name = "runqy.accounts"
    label = "accounts"
    verbose_name = "API keys"
