"""Authenticates keys as a view does."""

import pytest

from runqy.accounts import identities
from runqy.accounts.authentication import authenticate_key
from runqy.accounts.identities import accept_key_blocking
from runqy.api.throttling import failure_limiter
from runqy.core.api_keys import Identity
from runqy.redis_connection import get_broker


def authenticate(key: str) -> Identity | None:
    """Return the identity of a key that some address sends; None if it is not accepted."""
    return accept_key_blocking(key) or get_broker().run(
        authenticate_key(get_broker(), key, failure_limiter("203.0.113.9"))
    )


def forget_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget all uses of keys for a test: the keys of other tests have the same ids."""
    monkeypatch.setattr(identities, "_used_at_s", {})
    monkeypatch.setattr(identities, "_written_at_s", {})
