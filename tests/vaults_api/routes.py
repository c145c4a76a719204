"""What the tests of the vault routes send, and read from answers."""

import json
from typing import Any

from tests.api.client import Answer
from tests.support.canary import SUITE

SECRET = SUITE.secret(tail="yz")
PHRASE = "correct horse battery"


def content(answer: Answer, status: int = 200) -> Any:
    """Return what an answer says; none of them may be kept in a cache."""
    assert answer.status_code == status, answer.content
    assert answer["Cache-Control"] == "no-store"
    return json.loads(answer.content)
