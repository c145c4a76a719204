"""List API keys."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from runqy.accounts.models import ApiKey
from runqy.accounts.queries import list_api_keys


class Command(BaseCommand):
    """`runqy manage list_api_keys`"""

    help = "List the API keys of the database, newest first. Keys from the environment are not listed."

    def handle(self, *args: Any, **options: Any) -> None:
        for key in list_api_keys():
            queues, vaults = ",".join(key.queues) or "all", ",".join(key.vaults) or "all"
            row = (str(key.pk), f"{key.prefix}…", key.role, queues, _state(key), key.full_name, vaults)
            self.stdout.write("\t".join(row))


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if key.expires_at is None:
        return "valid"
    return f"{'expired' if key.expires_at <= timezone.now() else 'valid until'} {key.expires_at:%Y-%m-%d}"
