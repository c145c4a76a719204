"""The views that all others of the API are."""

from typing import Any, ClassVar

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.permissions import SAFE_METHODS
from rest_framework.views import APIView

from runqy.accounts.identity import Role
from runqy.api.aliases import mark_deprecated
from runqy.api.authentication import KeyAuthentication, authenticated
from runqy.api.errors import error_answer
from runqy.api.permissions import check_role, identify
from runqy.api.rate_limits import spend_request, tell_allowance
from runqy.api.request_ids import request_id
from runqy.audit.actors import Actor, ActorKind, act_as, act_as_server


class PlainView(APIView):
    """A view that takes Django's request as it is, and returns the bytes of its answer.

    DRF's own makes a request of a second kind, and settles versions, formats, parsers and throttles: the views here
    read bodies themselves, and answer with JSON whatever is asked for.
    """

    no_store: ClassVar[bool] = False
    """Nothing on the way is to keep its answers."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer a request, errors included. Raises what is a bug."""
        method = (request.method or "").lower()
        try:
            self.initial(request)
            handler = getattr(self, method, None) if method in self.http_method_names else None
            if handler is None:
                raise MethodNotAllowed(method)
            response: HttpResponseBase = handler(request, *args, **kwargs)
        except Exception as error:
            answer = error_answer(error, request, allowed=self.allowed_methods)
            if answer is None:
                raise
            response = answer
        if self.no_store:
            response["Cache-Control"] = "no-store"
        return response

    def initial(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Prepare for a request, or raise why it is refused."""


class PublicView(PlainView):
    """A view for anybody: says nothing about tasks or configuration, and is never to be kept."""

    no_store = True


class KeyedView(PlainView):
    """A view for holders of an API key."""

    authentication_classes = (KeyAuthentication,)
    roles: ClassVar[frozenset[Role]] = frozenset()
    """Who may ask besides administrators."""
    readers: ClassVar[frozenset[Role]] = frozenset()
    """Who may only read besides those."""
    is_of_queues: ClassVar[bool] = False
    """It looks at `Identity.queues`, so that administrators who are limited to queues may ask."""
    successor: str = ""
    """Where the path is an alias: the template of the path that takes its place."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer a request; then its thread acts for nobody any more."""
        try:
            response = super().dispatch(request, *args, **kwargs)
        finally:
            act_as_server()
        tell_allowance(request, response)
        if self.successor:
            mark_deprecated(response, self.successor, kwargs)
        return response

    def initial(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Let in whoever has a key with the right."""
        identity = authenticated(request)
        identify(request, identity)
        spend_request(request, identity)
        named = self.roles | self.readers if request.method in SAFE_METHODS else self.roles
        check_role(identity, named=named, is_of_queues=self.is_of_queues)
        act_as(
            Actor(
                kind=ActorKind.KEY,
                name=identity.name,
                id=identity.key_id,
                address=request.META.get("REMOTE_ADDR", ""),
                request_id=request_id(request),
            )
        )
