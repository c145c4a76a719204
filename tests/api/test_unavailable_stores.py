"""Without Redis or the database, every route works or returns 503 with Retry-After, never 500."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from drf_spectacular.generators import SchemaGenerator

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.configuration.snapshot import get_snapshot
from runqy.server.health import readiness
from tests.api.wsgi import Response, call
from tests.queues.samples import spec
from tests.support.waiting import PATIENCE_S
from vaults.operations import create_vault, set_entry

pytestmark = pytest.mark.slow

NAMES = {"queue": "simple", "name": "v", "key": "KEY", "task_id": "t", "worker_id": "w:1", "key_id": "1", "number": "1"}
NAMES |= {"webhook_id": "0123456789abcdef", "batch_id": "b"}


@pytest.fixture(autouse=True)
def _something_to_ask_about(configuration: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(readiness, "TIMEOUT_S", PATIENCE_S)  # a busy machine may take longer than is allowed
    save_queue(spec=spec("simple"), source=QueueSource.API)
    create_vault(name="v")
    set_entry(vault="v", key="KEY", value="value")
    get_snapshot(max_age_s=0)


def operations() -> Iterator[tuple[str, str, bytes]]:
    """Give each documented operation, with the body of its example."""
    for path, methods in SchemaGenerator().get_schema(request=None, public=True)["paths"].items():
        for method, operation in methods.items():
            filled = re.sub(r"\{(\w+)\}", lambda found: NAMES[found[1]], path)
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            example = next((e["value"] for e in content.get("examples", {}).values()), None)
            if isinstance(example, dict) and "queue" in example:
                example = example | {"queue": "simple"}
            yield method.upper(), filled, b"" if example is None else json.dumps(example).encode()


def outcome(response: Response) -> tuple[int, str]:
    """Return the status of a response, and the code if it is a problem."""
    if response.status < 500:
        return response.status, ""
    assert response.headers["Content-Type"] == "application/problem+json", response
    assert response.status == 503, response
    assert int(response.headers["Retry-After"]) > 0
    return response.status, json.loads(response.body)["code"]


def test_without_redis_no_route_fails_with_a_bug(redis_away: None, each_plane: str) -> None:
    found = {(method, path): outcome(call(method, path, body)) for method, path, body in operations()}

    assert found["POST", "/queue/add"] == (503, "broker_unavailable")
    assert found["GET", "/queue/t"] == (503, "broker_unavailable")
    assert found["GET", "/api/vaults/v"][0] == 200
    assert found["GET", "/readyz"] == (503, "not_ready")
    assert {code for _, code in found.values()} == {"", "broker_unavailable", "not_ready"}


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_without_a_database_no_route_fails_with_a_bug(
    each_plane: str, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(BaseDatabaseWrapper, "cursor", fail)  # on all threads
        found = {(method, path): outcome(call(method, path, body)) for method, path, body in operations()}

    assert found["POST", "/queue/add"][0] == 200
    assert found["POST", "/worker/register"][0] in (200, 404)
    assert found["GET", "/api/vaults"] == (503, "database_unavailable")
    assert {code for _, code in found.values()} == {"", "database_unavailable"}
