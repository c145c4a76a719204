"""While neither Redis nor the database confirms the configuration, secrets and administration are closed."""

from typing import Any

import pytest
import redis as redis_py

from queues.models import QueueSource
from queues.operations import save_queue
from runqy import clock
from runqy.accounts.operations import create_api_key
from runqy.broker import keys
from runqy.configuration import snapshot
from runqy.configuration.models import StoredDocument
from runqy.configuration.snapshot import get_snapshot
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from vaults.operations import create_vault

pytestmark = pytest.mark.usefixtures("configuration")

CLOSED = [
    ("GET", "/api/vaults"),
    ("GET", "/api/vaults/v"),
    ("POST", "/api/keys"),
    ("DELETE", "/api/keys/1"),
    ("GET", "/api/cli/configs"),
    ("POST", "/api/cli/configs/reload"),
    ("POST", "/api/cli/queues/simple/pause"),
    ("POST", "/api/cli/queues/simple/redeploy"),
    ("GET", "/api/cli/workers"),
    ("POST", "/worker/register"),
    ("DELETE", "/api/cli/queues/simple/tasks/t1"),
]


@pytest.fixture
def unconfirmed(redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an administrator's key; Redis has an unsigned configuration, and the database is unavailable."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    create_vault(name="v")
    key = create_api_key(name="admin", role="admin").plain
    get_snapshot()
    redis.set(keys.CONFIG_REVISIONS, "0123456789abcdef" * 2)

    def fail(**_: object) -> None:
        raise snapshot.DatabaseUnreachable("down")

    monkeypatch.setattr(StoredDocument.objects, "filter", fail)
    later_s = clock.monotonic_s() + snapshot.CONFIRMED_FOR_S + 1
    monkeypatch.setattr(clock, "monotonic_s", lambda: later_s)
    return key


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_routes_with_secrets_or_administration_are_refused(unconfirmed: str, method: str, path: str) -> None:
    client = ApiClient(unconfirmed)
    sends: dict[str, Any] = {"GET": client.get, "POST": client.post, "DELETE": client.delete}

    response = sends[method](path)

    assert (response.status_code, problem(response)["code"]) == (503, "configuration_unconfirmed")
    assert response["Retry-After"]


def test_task_routes_keep_working(unconfirmed: str, each_plane: str) -> None:
    client = ApiClient(unconfirmed)

    enqueued = client.post("/queue/add", {"queue": "simple", "data": {}})
    task_id = enqueued.json()["info"]["id"]
    read = [
        client.get(f"/queue/{task_id}"),
        client.post("/queue/add-batch", {"queue": "simple", "jobs": [{}]}),
        client.get("/api/cli/queues/simple/tasks"),
        client.get("/api/limits"),
    ]

    assert [response.status_code for response in (enqueued, *read)] == [200] * 5


def test_readiness_warns(unconfirmed: str) -> None:
    found = ApiClient().get("/readyz?verbose").json()

    details = {check["check"]: check["detail"] for check in found["checks"] if check["status"] == "warning"}
    assert "has confirmed the configuration for a minute" in details["configuration"]


def test_routes_work_again_once_the_database_confirms(unconfirmed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    client = ApiClient(unconfirmed)

    snapshot.get_cache().read_database()

    assert client.get("/api/vaults").status_code == 200
