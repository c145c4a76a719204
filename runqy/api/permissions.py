"""Tells what a key may do, by its role."""

from django.http import HttpRequest

from runqy.accounts.identity import Identity, Role
from runqy.errors import KeyInsufficient

_IDENTITY = "runqy.identity"


def check_role(identity: Identity, *, named: frozenset[Role], is_of_queues: bool) -> None:
    """Let in the roles that are named, and administrators; those limited to queues only to what is about queues.

    Raises KeyInsufficient.
    """
    if identity.role in named:
        return
    if identity.role != Role.ADMIN:
        raise KeyInsufficient(f"A key with the role {identity.role} may not do that.")
    # What other roles may do, they may do with limited keys too, so the view looks at the limit.
    if identity.queues is not None and not (named or is_of_queues):
        raise KeyInsufficient("This key is limited to queues, and this concerns more than those.")


def identify(request: HttpRequest, identity: Identity) -> None:
    """Note who asks."""
    request.META[_IDENTITY] = identity


def identity_of(request: HttpRequest) -> Identity:
    """Return who asks."""
    identity: Identity = request.META[_IDENTITY]
    return identity
