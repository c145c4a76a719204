"""The view that all others of the API are."""

from typing import Any, ClassVar

from django.http import HttpRequest
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

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer a request; then its thread acts for nobody any more.

        As DRF does it, without its versions, formats, parsers and throttles: the views read bodies themselves, and
        answer with JSON whatever is asked for.
        """
        self.args, self.kwargs, self.request = args, kwargs, Request(request)
        method = (request.method or "").lower()
        try:
            self.initial(self.request, *args, **kwargs)
            is_known = method in self.http_method_names
            handler = getattr(self, method, self.http_method_not_allowed) if is_known else self.http_method_not_allowed
            response: HttpResponseBase = handler(self.request, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 (one exit for all of them; what is a bug it raises again)
            response = self.handle_exception(error)
        finally:
            act_as_server()
        for name, value in self.default_response_headers.items():
            response.headers[name] = value
        tell_allowance(request, response)
        if self.successor:
            mark_deprecated(response, self.successor, kwargs)
        return response

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
                address=request._request.META.get("REMOTE_ADDR", ""),
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
