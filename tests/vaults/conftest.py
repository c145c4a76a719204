"""A vault that is created in the admin."""

import pytest
from django.test import Client

from tests.vaults.admin_pages import ONE_ENTRY, PAGES
from tests.vaults.test_vaults import SECRET
from vaults.models import Vault


@pytest.fixture
def page(admin_client: Client) -> str:
    """Create a vault with a secret in the admin, and return the path of its page."""
    form = {"name": "api-keys", "description": "d"} | ONE_ENTRY
    form |= {"entries-0-value": SECRET, "entries-0-is_secret": "on"}
    response = admin_client.post(f"{PAGES}add/", form)
    assert response.status_code == 302, response.content
    return f"{PAGES}{Vault.objects.get().pk}/"
