"""Model fields of the history."""

from typing import Any

from django.db import models


class RedisTextField(models.CharField):  # type: ignore[type-arg]
    """Text that was read in Redis, where any worker of the queue may have written it.

    PostgreSQL refuses NUL in values and in what they are compared with: it is stored, and looked up, as U+FFFD.
    """

    def get_prep_value(self, value: Any) -> Any:
        """Return what the database is given for a value."""
        prepared = super().get_prep_value(value)
        return prepared.replace("\0", "\ufffd") if isinstance(prepared, str) else prepared
