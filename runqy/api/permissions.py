"""Permissions by the role and the queues of the API key."""

from collections.abc import Mapping
from typing import Any, cast

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from runqy.api.requests import AuthenticatedRequest
from runqy.core.api_keys import STAFF_ROLES, Identity, Role
from runqy.errors import KeyInsufficient


class HasRole(BasePermission):
    """Allow administrators, the viewset's `roles`, for safe methods its `read_roles`, and the action's `action_roles`.

    A key of an administrator or with one of STAFF_ROLES that is limited to queues is refused, unless the viewset sets
    `allows_queue_scoped_keys` or names another role. Then the viewset applies the limit itself.
    """

    code = KeyInsufficient.code

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.auth is None:
            return False  # DRF responds 401
        self.message = find_refusal_of_view(cast(AuthenticatedRequest, request).auth, view, str(request.method))
        return not self.message


def get_roles(view: Any, method: str) -> frozenset[Role]:
    """Return the roles that `HasRole` allows besides administrators."""
    roles: frozenset[Role] = getattr(view, "roles", frozenset())
    if method in SAFE_METHODS:
        roles |= getattr(view, "read_roles", frozenset())
    action_roles: Mapping[str, frozenset[Role]] = getattr(view, "action_roles", {})
    return roles | action_roles.get(getattr(view, "action", ""), frozenset())


def find_refusal_of_view(identity: Identity, view: Any, method: str) -> str:
    """Return why a view refuses a key; empty if it is allowed."""
    return find_refusal(
        identity,
        roles=get_roles(view, method),
        allows_queue_scoped_keys=getattr(view, "allows_queue_scoped_keys", False),
    )


def find_refusal(identity: Identity, *, roles: frozenset[Role], allows_queue_scoped_keys: bool) -> str:
    """Return why a key with another role than these or administrator is refused; empty if it is allowed."""
    if identity.role not in roles and identity.role != Role.ADMIN:
        return f"A key with the role {identity.role} is not allowed to do this."
    return "" if allows_queue_scoped_keys or roles - STAFF_ROLES else find_queue_limit(identity)


def find_queue_limit(identity: Identity) -> str:
    """Return why a key may not do what concerns all queues; empty for a key that is not limited to queues."""
    return (
        "" if identity.queues is None else "This key is limited to certain queues, but the request concerns all queues."
    )


def require_all_queues(identity: Identity) -> None:
    """Raise KeyInsufficient for a key that is limited to queues."""
    if reason := find_queue_limit(identity):
        raise KeyInsufficient(reason)
