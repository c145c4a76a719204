"""The permission that depends on whether the configuration is confirmed."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from runqy.configuration.snapshot import is_confirmed
from runqy.errors import ConfigurationUnconfirmed


class HasConfirmedConfiguration(BasePermission):
    """Refuse requests while neither Redis nor the database has confirmed the configuration for CONFIRMED_FOR_S.

    The request's key may have been revoked meanwhile. Viewsets that return no secrets and administer nothing override
    `needs_confirmed_configuration`.
    """

    code = ConfigurationUnconfirmed.code  # the exception handler responds to it with 503

    def has_permission(self, request: Request, view: Any) -> bool:
        return not getattr(view, "needs_confirmed_configuration", True) or is_confirmed()
