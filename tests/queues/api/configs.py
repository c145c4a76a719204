"""Requests and responses of the configuration routes."""

import json
from typing import Any

from queues.queries import get_fresh_catalog
from tests.api.client import Response, problem

PATHS = ("/api/cli/configs", "/workers/queues")
DEPLOYMENT = {"git_url": "https://github.com/example/simple.git", "branch": "main", "startup_cmd": "python task.py"}
BODY = {"name": "simple", "priority": 3, "deployment": {**DEPLOYMENT, "mode": "one_shot"}}


def content(response: Response, status: int = 200) -> Any:
    """Return the content of a response, which may not be cached."""
    assert response.status_code == status, response.content
    assert response["Cache-Control"] == "no-store"
    return json.loads(response.content)


def refusal(response: Response) -> tuple[int, str]:
    """Return status and code of a problem."""
    return response.status_code, problem(response)["code"]


def sub_queues(name: str) -> list[tuple[str, int]]:
    """Return the Redis queues and priorities that workers of a queue serve."""
    return get_fresh_catalog(max_age_s=0).for_worker(name)[1]
