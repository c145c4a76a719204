"""Fixtures of the tests of vault routes."""

import pytest

from tests.api.client import ApiClient
from tests.vaults.api.routes import SECRET


@pytest.fixture
def client(configuration: None) -> ApiClient:
    """Return an administrator's client; there is a vault with a secret and an unmasked value."""
    client = ApiClient()
    client.post("/api/vaults", {"name": "api-keys", "description": "API keys for external services"})
    client.post("/api/vaults/api-keys/entries", {"key": "OPENAI_API_KEY", "value": SECRET})
    client.post("/api/vaults/api-keys/entries", {"key": "DEBUG_MODE", "value": "true", "is_secret": False})
    return client
