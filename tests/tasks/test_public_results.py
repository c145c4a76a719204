"""Browser pages read results: without a key (RUNQY_PUBLIC_RESULTS), and from other origins (RUNQY_CORS_ORIGINS)."""

from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.core.formats.durations import Rate
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.tasks import put
from tests.support.web import WebProcess

PAGE = "https://app.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture
def task_id() -> str:
    """Return the id of a pending task."""
    save_queue(spec=spec("mail"), source=QueueSource.API)
    put(get_broker(), "t1", queue="mail")
    return "t1"


def test_results_need_a_key(task_id: str, each_plane: str) -> None:
    assert ApiClient(None).get(f"/queue/{task_id}").status_code == 401


def test_public_results_are_read_without_a_key_and_nothing_else_is(
    task_id: str, settings: Any, each_plane: str
) -> None:
    settings.RUNQY_PUBLIC_RESULTS = True
    anyone = ApiClient(None)

    assert anyone.get(f"/queue/{task_id}").json()["info"]["state"] == "pending"
    assert anyone.get(f"/queue/{task_id}?wait=0.1").status_code == 202
    assert anyone.get("/queue/unknown").status_code == 404
    assert anyone.get(f"/queue/{task_id}/events").status_code == 401
    assert anyone.get(f"/api/cli/queues/mail/tasks/{task_id}").status_code == 401
    assert anyone.post("/queue/add", {"queue": "mail", "data": {}}).status_code == 401
    assert ApiClient("wrong").get(f"/queue/{task_id}").status_code == 401


def test_clients_without_a_key_are_limited_by_their_address(task_id: str, settings: Any, each_plane: str) -> None:
    settings.RUNQY_PUBLIC_RESULTS = True
    settings.RUNQY_RATE_LIMIT = Rate(1, 3600)

    statuses = [ApiClient(None, address=f"10.0.0.{host}").get(f"/queue/{task_id}").status_code for host in (1, 1, 2)]

    assert statuses == [200, 429, 200]


def send(web: WebProcess, method: str, path: str, origin: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Send a request of a browser's page, and return the status and what the response says about CORS."""
    connection = HTTPConnection("127.0.0.1", web.port, timeout=60)
    try:
        connection.request(method, path, headers=headers | ({"Origin": origin} if origin else {}))
        response = connection.getresponse()
        response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, {name: found[name] for name in found if name.startswith("access-") or name == "vary"}
    finally:
        connection.close()


def test_pages_of_the_origins_that_are_set_read_responses(tmp_path: Path) -> None:
    web = WebProcess(tmp_path, RUNQY_CORS_ORIGINS=PAGE)
    try:
        status, page = send(web, "GET", "/queue/unknown", PAGE)
        assert (status, page["access-control-allow-origin"], page["vary"]) == (401, PAGE, "origin")
        assert "Retry-After" in page["access-control-expose-headers"]
        assert send(web, "GET", "/api/limits", PAGE) == (401, page)
        assert send(web, "GET", "/queue/unknown", "https://other.example.com") == (401, {"vary": "origin"})
        assert send(web, "GET", "/queue/unknown", "") == (401, {"vary": "origin"})

        for path in ("/queue/unknown", "/api/limits"):
            status, preflight = send(web, "OPTIONS", path, PAGE, **PREFLIGHT)
            assert (status, preflight["access-control-allow-origin"]) == (204, PAGE)
            assert "authorization" in preflight["access-control-allow-headers"]
            assert "POST" in preflight["access-control-allow-methods"]
        assert "access-control-allow-origin" not in send(web, "GET", "/admin/login/", PAGE)[1]
    finally:
        web.kill()
