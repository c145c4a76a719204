"""Tells who asks, by the API key in the request's header."""

from django.http import HttpRequest
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication

from runqy.accounts.identity import Identity
from runqy.accounts.queries import authenticate
from runqy.api.rate_limits import note_failure
from runqy.errors import KeyRequired


class KeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer <key>`, or `X-API-Key: <key>`, as the schema tells it; the views ask `authenticated`."""


def authenticated(request: HttpRequest) -> Identity:
    """Return whose key a request has.

    Raises KeyRequired when there is none, or one that is not valid; TooManyFailures when too many were not.
    """
    key = _presented_key(request)
    identity = authenticate(key) if key else None
    if identity is None:
        if key:
            note_failure(request)
        raise KeyRequired
    return identity


def _presented_key(request: HttpRequest) -> str:
    """Return the key in the request's headers; an empty text is nobody's key."""
    meta = request.META
    scheme, _, key = str(meta.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return str(meta.get("HTTP_X_API_KEY", "")).strip()


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Describes the key in the schema."""

    target_class = KeyAuthentication
    name = "ApiKey"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        """Return OpenAPI's words for a bearer key."""
        return {"type": "http", "scheme": "bearer"}
