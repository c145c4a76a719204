"""Authentication by API key, for DRF and for the data plane."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from runqy.accounts.queries import authenticate, is_guessable
from runqy.api.throttling import AuthFailureLimiter
from runqy.api_keys import Identity

REALM = 'Bearer realm="runqy"'


@dataclass(frozen=True, slots=True)
class ApiClient:
    """The `request.user` of a request with an API key."""

    name: str
    is_authenticated: bool = True


class BearerTokenAuthentication(BaseAuthentication):
    """Authenticate by `Authorization: Bearer <key>` or `X-API-Key: <key>`.

    `request.auth` is the key's Identity: its role, and the queues it is limited to.
    """

    def authenticate(self, request: Request) -> tuple[ApiClient, Identity] | None:
        """Return the client and its identity; None without a key. Raise AuthenticationFailed, TooManyFailures."""
        key = presented_key(request.headers)
        if not key:
            return None
        limiter, is_guess = AuthFailureLimiter(), is_guessable(key)
        if is_guess:
            limiter.refuse_guess(request)
        identity = authenticate(key)
        if identity is None:
            limiter.record_failure(request)
            raise AuthenticationFailed
        if is_guess:
            limiter.refuse_guess(request)  # concurrent guesses may have reached the limit
        return ApiClient(identity.name), identity

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge of a 401 response."""
        return REALM


def presented_key(headers: Mapping[str, str]) -> str:
    """Return the key in a request's headers, or an empty string."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("X-API-Key", "").strip()


class BearerTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The security scheme in the OpenAPI schema."""

    target_class = BearerTokenAuthentication
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}
