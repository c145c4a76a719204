"""What the tests of the configuration routes send, and read from answers."""

import json
from typing import Any

from queues.queries import get_fresh_catalog
from tests.api.client import Answer, problem

PATHS = ("/api/cli/configs", "/workers/queues")
DEPLOYMENT = {"git_url": "https://github.com/example/simple.git", "branch": "main", "startup_cmd": "python task.py"}
BODY = {"name": "simple", "priority": 3, "deployment": {**DEPLOYMENT, "mode": "one_shot"}}


def content(answer: Answer, status: int = 200) -> Any:
    """Return what an answer says; none may be kept in a cache."""
    assert answer.status_code == status, answer.content
    assert answer["Cache-Control"] == "no-store"
    return json.loads(answer.content)


def refusal(answer: Answer) -> tuple[int, str]:
    """Return status and code of a problem."""
    return answer.status_code, problem(answer)["code"]


def sub_queues(name: str) -> list[tuple[str, int]]:
    """Return what workers of a queue serve."""
    return get_fresh_catalog(max_age_s=0).for_worker(name)[1]
