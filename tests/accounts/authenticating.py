"""Authenticates keys as a view does."""

from runqy.api.authentication import authenticate_blocking
from runqy.api.throttling import failure_limiter
from runqy.api_keys import Identity


def authenticate(key: str) -> Identity | None:
    """Return the identity of a key that some address sends; None if it is not accepted."""
    return authenticate_blocking(key, failure_limiter("203.0.113.9"))
