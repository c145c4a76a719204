"""Permissions by the role of the API key, and by the queues it is limited to."""

from typing import Any, cast

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from runqy.api.requests import AuthenticatedRequest
from runqy.api_keys import Identity, Role
from runqy.errors import KeyInsufficient


class HasRole(BasePermission):
    """Allow administrators, the viewset's `roles`, for safe methods its `read_roles`, and the action's `action_roles`.

    An administrator's key that is limited to queues is refused unless the viewset has `allows_queue_scoped_keys` or
    names a role: then it applies the limit itself.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return True, or raise KeyInsufficient with the reason."""
        roles: frozenset[Role] = getattr(view, "roles", frozenset())
        if request.method in SAFE_METHODS:
            roles |= getattr(view, "read_roles", frozenset())
        roles |= getattr(view, "action_roles", {}).get(getattr(view, "action", ""), frozenset())
        allows_queue_scoped_keys = getattr(view, "allows_queue_scoped_keys", False)
        check_role(
            cast(AuthenticatedRequest, request).auth, roles=roles, allows_queue_scoped_keys=allows_queue_scoped_keys
        )
        return True


def check_role(identity: Identity, *, roles: frozenset[Role], allows_queue_scoped_keys: bool) -> None:
    """Raise KeyInsufficient unless a key has one of the roles, or is an administrator's."""
    if identity.role in roles:
        return
    if identity.role != Role.ADMIN:
        raise KeyInsufficient(f"A key with the role {identity.role} is not allowed to do this.")
    if not (roles or allows_queue_scoped_keys):
        require_all_queues(identity)


def require_all_queues(identity: Identity) -> None:
    """Raise KeyInsufficient for a key that is limited to queues."""
    if identity.queues is not None:
        raise KeyInsufficient("This key is limited to certain queues, and the request is not.")
