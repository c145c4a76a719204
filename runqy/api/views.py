"""The view that all others of the API are."""

from typing import Any, ClassVar

from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from runqy.accounts.identity import Role
from runqy.api.authentication import KeyAuthentication
from runqy.api.permissions import HasRole

_AUTHENTICATION = KeyAuthentication()
_PERMISSIONS: list[BasePermission] = [HasRole()]


class KeyedView(APIView):
    """A view for holders of an API key."""

    roles: ClassVar[frozenset[Role]] = frozenset()
    """Who may ask besides administrators."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let in whoever has a key with the right. There are no versions, formats or throttles to determine."""
        request.user, request.auth = _AUTHENTICATION.authenticate(request)  # type: ignore[assignment]
        self.check_permissions(request)

    @property
    def default_response_headers(self) -> dict[str, str]:
        """Return none: what a path allows is told to whoever asked for something else."""
        return {}

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Return the one for all, made once."""
        return [_AUTHENTICATION]

    def get_permissions(self) -> list[BasePermission]:
        """Return the one for all, made once."""
        return _PERMISSIONS
