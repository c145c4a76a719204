"""Fixtures of the tests of queues."""

import pytest
from django.test import Client


@pytest.fixture
def staff(admin_client: Client) -> Client:
    """Return the browser of somebody who may do everything."""
    return admin_client
