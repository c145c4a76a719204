from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """API keys, users and groups."""

    name = "runqy.accounts"
    label = "accounts"
    verbose_name = "API keys"

    def ready(self) -> None:
        # Not at the top: these modules import models, which are loaded by now.
        from runqy.accounts.logins import record_logins  # noqa: PLC0415
        from runqy.accounts.users import record_changes_by_commands  # noqa: PLC0415

        record_logins()
        record_changes_by_commands()
