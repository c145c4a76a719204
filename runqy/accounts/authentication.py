"""Authentication by API key, for DRF and for the data plane."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from runqy.accounts.identities import accept_key_blocking, find_identity, is_guessable, record_use
from runqy.api.requests import AuthenticatedRequest, RateLimitReport
from runqy.api.throttling import RateLimiter, failure_limiter, ip_prefix
from runqy.broker.request import AnyBroker
from runqy.core.api_keys import Identity, Role
from runqy.errors import KeyRequired
from runqy.redis_connection import get_broker


@dataclass(frozen=True, slots=True)
class ApiClient:
    """The `request.user` of a request with an API key."""

    name: str
    is_authenticated: bool = True


class BearerTokenAuthentication(BaseAuthentication):
    """Authenticate by `Authorization: Bearer <key>` or `X-API-Key: <key>`.

    `request.auth` is the Identity of the key: its role, and the queues that it is limited to.
    """

    def authenticate(self, request: Request) -> tuple[ApiClient, Identity] | None:
        """Return the client and its identity; None if a key is missing. Raise AuthenticationFailed, TooManyFailures."""
        key = presented_key(request.headers)
        if not key:
            return None
        identity = accept_key_blocking(key)
        if identity is None:
            limiter = failure_limiter(request.META.get("REMOTE_ADDR", ""))
            try:
                identity = get_broker().run(authenticate_key(get_broker(), key, limiter))
            finally:
                if limiter.headers:
                    cast(AuthenticatedRequest, request).rate_limit = RateLimitReport(limiter.headers)
        if identity is None:
            raise AuthenticationFailed
        return ApiClient(identity.name), identity

    def authenticate_header(self, request: Request) -> str:
        return KeyRequired.challenge


class PublicResultAuthentication(BearerTokenAuthentication):
    """With RUNQY_PUBLIC_RESULTS, authenticate requests without a key too."""

    def authenticate(self, request: Request) -> tuple[ApiClient, Identity] | None:
        authenticated = super().authenticate(request)
        if authenticated is None and settings.RUNQY_PUBLIC_RESULTS:
            return ApiClient("public"), public_identity(request.META.get("REMOTE_ADDR", ""))
        return authenticated


def public_identity(address: str) -> Identity:
    """Return the identity of a client without a key. Rate limits count its address."""
    return Identity(role=Role.CLIENT, name="public", key_id=f"public:{ip_prefix(address)}")


async def authenticate_key(broker: AnyBroker, key: str, limiter: RateLimiter) -> Identity | None:
    """Return the identity of a key that `accept_key` does not accept at once, within the limit of failures.

    None for a wrong key. The caller has refreshed the snapshot for a key that `may_be_new`. Raise TooManyFailures,
    ConfigurationUnavailable.
    """
    is_guess = is_guessable(key)
    if is_guess:
        await limiter.check(broker)
    identity = find_identity(key)
    if identity is None:
        await limiter.count(broker)
        return None
    if is_guess:
        await limiter.check(broker)  # concurrent guesses may have reached the limit
    record_use(identity.key_id)
    return identity


def presented_key(headers: Mapping[str, str]) -> str:
    """Return the key in a request's headers; empty without one."""
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
