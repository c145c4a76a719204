"""The view that all others of the API are."""

from typing import Any, ClassVar

from django.http.response import HttpResponseBase
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from runqy.accounts.identity import Role
from runqy.api.aliases import mark_deprecated
from runqy.api.authentication import KeyAuthentication
from runqy.api.permissions import HasRole, identity_of
from runqy.api.rate_limits import spend_request, tell_allowance
from runqy.api.request_ids import request_id
from runqy.audit.actors import Actor, ActorKind, act_as, act_as_server

_AUTHENTICATION = KeyAuthentication()
_PERMISSIONS: list[BasePermission] = [HasRole()]


class KeyedView(APIView):
    """A view for holders of an API key."""

    roles: ClassVar[frozenset[Role]] = frozenset()
    """Who may ask besides administrators."""
    readers: ClassVar[frozenset[Role]] = frozenset()
    """Who may only read besides those."""
    is_of_queues: ClassVar[bool] = False
    """It looks at `Identity.queues`, so that administrators who are limited to queues may ask."""
    successor: str = ""
    """Where the path is an alias: the template of the path that takes its place."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer a request; then its thread acts for nobody any more."""
        try:
            return super().dispatch(request, *args, **kwargs)
        finally:
            act_as_server()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let in whoever has a key with the right. There are no versions, formats or throttles to determine."""
        request.user, request.auth = _AUTHENTICATION.authenticate(request)  # type: ignore[assignment]
        identity = identity_of(request)
        spend_request(request._request, identity)
        self.check_permissions(request)
        act_as(
            Actor(
                kind=ActorKind.KEY,
                name=identity.name,
                id=identity.key_id,
                address=request.META.get("REMOTE_ADDR", ""),
                request_id=request_id(request._request),
            )
        )

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

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Finish an answer: say what its key may still send and, at an alias, where to go."""
        finished = super().finalize_response(request, response, *args, **kwargs)
        tell_allowance(request._request, finished)
        if self.successor:
            mark_deprecated(finished, self.successor, kwargs)
        return finished
