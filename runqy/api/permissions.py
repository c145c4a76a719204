"""Tells what a key may do, by its role."""

from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from runqy.accounts.identity import Identity, Role
from runqy.errors import KeyInsufficient


class HasRole(BasePermission):
    """Lets in the roles that a view names, and administrators; those limited to queues only to what is about queues."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Tell nothing but yes: raises KeyInsufficient for a key without the right."""
        identity = identity_of(request)
        named: frozenset[Role] = view.roles | view.readers if request._request.method in SAFE_METHODS else view.roles
        if identity.role in named:
            return True
        if identity.role != Role.ADMIN:
            raise KeyInsufficient(f"A key with the role {identity.role} may not do that.")
        # What other roles may do, they may do with limited keys too, so the view looks at the limit.
        if identity.queues is not None and not (named or view.is_of_queues):
            raise KeyInsufficient("This key is limited to queues, and this concerns more than those.")
        return True


def identity_of(request: Request) -> Identity:
    """Return who asks."""
    identity: Identity = request.user  # type: ignore[assignment]
    return identity
