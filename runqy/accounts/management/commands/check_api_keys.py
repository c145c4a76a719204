"""Print a warning if there is no API key."""

from typing import Any

from django.core.management.base import BaseCommand

from runqy.accounts.queries import has_accepted_key

NO_KEY = (
    "There is no API key: all requests of clients and workers are refused. Set RUNQY_API_KEY to the output of "
    "`openssl rand -hex 32`, or create keys in the admin or by `runqy manage create_api_key NAME --role admin`."
)


class Command(BaseCommand):
    """Print a warning if no API key is accepted; `runqy serve` runs it."""

    help = "Warn if no API key is accepted, and show how to create one."

    def handle(self, *args: Any, **options: Any) -> None:
        if not has_accepted_key():
            self.stderr.write(NO_KEY)
