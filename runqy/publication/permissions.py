"""The permission that closes routes while nothing confirms the configuration."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from runqy.errors import ConfigurationUnconfirmed
from runqy.publication.snapshot import is_confirmed


class HasConfirmedConfiguration(BasePermission):
    """Refuse requests while neither Redis nor the database has confirmed the configuration for RUNQY_CONFIG_MAX_AGE.

    The key of a request may have been revoked since. Viewsets that hand out no secrets and administer nothing override
    `needs_confirmed_configuration`.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return True, or raise ConfigurationUnconfirmed."""
        if getattr(view, "needs_confirmed_configuration", True) and not is_confirmed():
            raise ConfigurationUnconfirmed
        return True
