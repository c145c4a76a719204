"""Requests and responses of the vault routes."""

import json
from typing import Any

from tests.api.client import Response
from tests.support.secret_leaks import SUITE

SECRET = SUITE.secret(tail="yz")


def content(response: Response, status: int = 200) -> Any:
    """Return the content of a response, which may not be cached."""
    assert response.status_code == status, response.content
    assert response["Cache-Control"] == "no-store"
    return json.loads(response.content)
