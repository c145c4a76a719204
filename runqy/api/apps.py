"""Makes Django know the API's checks, and takes from each request what only the admin needs."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """The plumbing of the API; it has no models."""

    name = "runqy.api"
    label = "runqy_api"

    def ready(self) -> None:
        """Register the checks, and look after database connections."""
        from runqy.api import checks, database  # noqa: F401, PLC0415 (the checks register by being imported)

        database.close_only_what_is_open()
