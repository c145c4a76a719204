"""Workers that register for a Redis user of their own."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.workers.redis_users import list_users
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient
from tests.support.environment import SERVER

INSTANCE, OTHER_INSTANCE = str(uuid.uuid4()), str(uuid.uuid4())
ACCEPTS = {"accepts": ["redis_acl", "something-newer"], "instance_id": INSTANCE}


def register(client: ApiClient, queue: str = "mail", **changes: Any) -> dict[str, Any]:
    """Register a worker and return how it enters Redis."""
    body = {"queue": queue, "worker_id": f"w-{queue}"} | ACCEPTS | changes
    response = client.post("/worker/register", body)
    assert response.status_code == 200, response.content
    found: dict[str, Any] = json.loads(response.content)["redis"]
    return found


def enter(entry: dict[str, Any], port: int = 0) -> redis_py.Redis:
    """Return a client with the credentials that a worker received."""
    return redis_py.Redis(port=port or SERVER.port, username=entry["username"], password=entry["password"])


def users(broker: Broker | None = None) -> set[str]:
    """Return the names of workers' users that are on any server."""
    broker = broker or get_broker()
    return {name for names in broker.run(list_users(broker)).values() for name in names}


def is_refused(act: Callable[[], object]) -> bool:
    """Return whether Redis does not let a user do something, or does not let it in."""
    try:
        act()
    except (redis_py.exceptions.NoPermissionError, redis_py.AuthenticationError):
        return True
    return False
