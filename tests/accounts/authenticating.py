"""Authenticates keys as a view does."""

from runqy.accounts.identities import accept_key_blocking
from runqy.api.authentication import authenticate_key
from runqy.api.throttling import failure_limiter
from runqy.api_keys import Identity
from runqy.redis_connection import run_blocking


def authenticate(key: str) -> Identity | None:
    """Return the identity of a key that some address sends; None if it is not accepted."""
    return accept_key_blocking(key) or run_blocking(authenticate_key(key, failure_limiter("203.0.113.9")))
