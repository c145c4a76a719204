"""While neither Redis nor the database confirms the configuration, secrets and administration are closed."""

from typing import Any

import pytest
import redis as redis_py

from queues.models import Source
from queues.operations import save_queue
from runqy import clock
from runqy.accounts.operations import create_api_key
from runqy.broker import keys
from runqy.publication import snapshot
from runqy.publication.models import StoredDocument
from runqy.publication.snapshot import get_snapshot
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from vaults.operations import create_vault

pytestmark = pytest.mark.usefixtures("configuration")

CLOSED = [
    ("GET", "/api/vaults"),
    ("GET", "/api/vaults/v"),
    ("POST", "/api/vaults/v/export"),
    ("POST", "/api/keys"),
    ("DELETE", "/api/keys/1"),
    ("GET", "/api/cli/configs"),
    ("POST", "/api/cli/configs/reload"),
    ("POST", "/api/cli/queues/simple/pause"),
    ("GET", "/api/cli/workers"),
    ("POST", "/worker/register"),
    ("DELETE", "/api/cli/queues/simple/tasks/t1"),
]


@pytest.fixture
def unconfirmed(redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an administrator's key; then Redis publishes what no server signed, and the database is away."""
    save_queue(spec=spec("simple"), source=Source.API)
    create_vault(name="v")
    key = create_api_key(name="admin", role="admin").plain
    get_snapshot()
    redis.set(keys.CONFIG_HEAD, "0123456789abcdef" * 2)

    def fail(**_: object) -> None:
        raise snapshot.DatabaseUnreachable("down")

    monkeypatch.setattr(StoredDocument.objects, "filter", fail)
    later_s = clock.monotonic_s() + 61
    monkeypatch.setattr(clock, "monotonic_s", lambda: later_s)
    return key


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_hands_out_secrets_or_administers_is_refused(unconfirmed: str, method: str, path: str) -> None:
    client = ApiClient(unconfirmed)
    sends: dict[str, Any] = {"GET": client.get, "POST": client.post, "DELETE": client.delete}

    answer = sends[method](path)

    assert (answer.status_code, problem(answer)["code"]) == (503, "configuration_unconfirmed")
    assert answer["Retry-After"]


def test_tasks_go_on(unconfirmed: str, each_plane: str) -> None:
    client = ApiClient(unconfirmed)

    enqueued = client.post("/queue/add", {"queue": "simple", "data": {}})
    task_id = enqueued.json()["info"]["id"]
    read = [
        client.get(f"/queue/{task_id}"),
        client.post("/queue/add-batch", {"queue": "simple", "jobs": [{}]}),
        client.get("/api/cli/queues/simple/tasks"),
        client.get("/api/limits"),
    ]

    assert [answer.status_code for answer in (enqueued, *read)] == [200] * 5


def test_readiness_warns(unconfirmed: str) -> None:
    found = ApiClient(None).get("/readyz?verbose").json()

    details = {check["check"]: check["detail"] for check in found["checks"] if check["status"] == "warning"}
    assert "RUNQY_CONFIG_MAX_AGE" in details["configuration"]


def test_all_is_open_again_as_soon_as_the_database_confirms(unconfirmed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    client = ApiClient(unconfirmed)

    snapshot.get_cache().read_database()

    assert client.get("/api/vaults").status_code == 200
