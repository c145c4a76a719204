"""Tells what a key may do, by its role."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from runqy.accounts.identity import Identity, Role
from runqy.errors import KeyInsufficient


class HasRole(BasePermission):
    """Lets in the roles that a view names, and administrators."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Tell nothing but yes: raises KeyInsufficient for a key without the right."""
        role = identity_of(request).role
        if role != Role.ADMIN and role not in view.roles:
            raise KeyInsufficient(f"A key with the role {role} may not do that.")
        return True


def identity_of(request: Request) -> Identity:
    """Return who asks."""
    identity: Identity = request.user  # type: ignore[assignment]
    return identity
