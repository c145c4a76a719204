"""Both planes respond alike to requests that wait; the others are compared wherever a test sends them."""

from collections.abc import Sequence

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from tasks.api import calls
from tests.api import planes
from tests.api.client import ApiClient, Response
from tests.queues.samples import spec
from tests.support.data_plane import DataPlane
from tests.support.environment import CLIENT_KEY

ENQUEUE = {"queue": "simple", "data": {"n": 1}}
WAITS = [
    ("?wait=0.02", {}, ""),
    ("?wait=1h", {}, "wait=0"),
    ("", {"Prefer": "wait=30"}, "wait=0"),
    ("?wait=0.02", {"Idempotency-Key": "once"}, ""),
]
"""Queries and headers of requests that wait, and Preference-Applied of their responses."""


@pytest.fixture(autouse=True)
def _waits_briefly(configuration: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a queue without workers, and waits of at most a moment, which is 0 in whole seconds."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    monkeypatch.setattr(calls, "MAX_WAIT_S", 0.05)


@pytest.fixture
def both(data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> "BothPlanes":
    """Return a client of both planes."""
    return BothPlanes(data_plane, monkeypatch)


class BothPlanes:
    """Sends a request to each plane, one after the other."""

    def __init__(self, data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
        self._data_plane, self._monkeypatch = data_plane, monkeypatch

    def send(
        self, path: str, body: object = None, *, keys: Sequence[str] = (CLIENT_KEY, CLIENT_KEY), **headers: str
    ) -> Response:
        """Return the response, which has to be the same; a request with a body is a POST."""
        with self._monkeypatch.context() as patched:
            patched.setattr(planes, "data_plane", self._data_plane)
            seen = self._send(path, body, keys[0], headers)
        expected = self._send(path, body, keys[1], headers)
        planes.assert_alike(seen, expected, is_later=True)
        return seen

    @staticmethod
    def _send(path: str, body: object, key: str, headers: dict[str, str]) -> Response:
        client = ApiClient(key)
        return client.get(path, **headers) if body is None else client.post(path, body, **headers)


@pytest.mark.parametrize(("query", "headers", "applied"), WAITS)
def test_a_new_task_that_does_not_end_in_time(
    both: BothPlanes, query: str, headers: dict[str, str], applied: str
) -> None:
    if "Idempotency-Key" in headers:
        ApiClient(CLIENT_KEY).post("/queue/add", ENQUEUE, **headers)

    response = both.send(f"/queue/add{query}", ENQUEUE, **headers)

    assert response.status_code == 202
    assert response["Location"] == f"/queue/{response.json()['info']['id']}"
    assert response.get("Preference-Applied", "") == applied
    assert response.get("Idempotent-Replayed", "") == ("true" if "Idempotency-Key" in headers else "")


@pytest.mark.parametrize(("query", "headers", "applied"), WAITS[:3])
def test_a_task_that_does_not_end_in_time(both: BothPlanes, query: str, headers: dict[str, str], applied: str) -> None:
    task_id = ApiClient(CLIENT_KEY).post("/queue/add", ENQUEUE).json()["info"]["id"]

    response = both.send(f"/queue/{task_id}{query}", **headers)

    assert (response.status_code, response["Location"]) == (202, f"/queue/{task_id}")
    assert response.get("Preference-Applied", "") == applied


def test_a_wait_that_is_counted(both: BothPlanes) -> None:
    keys = tuple(create_api_key(name=name, role="client", rate_limit="1/h").plain for name in ("first", "second"))

    enqueued, refused = (both.send("/queue/add?wait=0.02", ENQUEUE, keys=keys) for _ in range(2))

    assert (enqueued.status_code, enqueued["RateLimit-Policy"]) == (202, '"key";q=1;w=3600')
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
