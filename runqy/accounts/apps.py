"""Registers the accounts with Django."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """The keys that programs enter with."""

    name = "runqy.accounts"
    label = "accounts"
    verbose_name = "API keys"

    def ready(self) -> None:
        """Begin to record who logs in; what does so needs models, which there are only now."""
        from runqy.accounts.logins import record_logins  # noqa: PLC0415

        record_logins()
