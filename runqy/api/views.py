"""The view that all others of the API are."""

from typing import Any, ClassVar

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from runqy.accounts.queries import Identity
from runqy.errors import KeyInsufficient


class HasRole(BasePermission):
    """Lets in the roles that a view names, and administrators."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Tell nothing but yes: raises KeyInsufficient for a key without the right."""
        role = identity_of(request).role
        if role != "admin" and role not in view.roles:
            raise KeyInsufficient(f"A key with the role {role} may not do that.")
        return True


class KeyedView(APIView):
    """A view for holders of an API key."""

    roles: ClassVar[frozenset[str]] = frozenset()
    """Who may ask besides administrators."""


def identity_of(request: Request) -> Identity:
    """Return who asks."""
    identity: Identity = request.user  # type: ignore[assignment]
    return identity
