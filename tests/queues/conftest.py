"""Fixtures of the tests of queues."""

import pytest
from django.test import Client


@pytest.fixture
def staff(admin_client: Client) -> Client:
    """Return the client of a superuser."""
    return admin_client
