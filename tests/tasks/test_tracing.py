"""Tasks store the id of the request that created them, and its trace."""

import json
from typing import Any

import pytest

from runqy.broker.message import decode
from tests.api.client import ApiClient

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _stored_headers(redis: Any) -> dict[str, str]:
    """Return the headers of the only task."""
    (key,) = redis.keys("asynq:{*}:t:*")
    return dict(decode(redis.hget(key, "msg")).headers)


def test_a_task_stores_the_request_id_and_the_trace(client: ApiClient, redis: Any) -> None:
    added = client.post("/queue/add", {"queue": "simple", "data": {}}, **{"X-Request-ID": "r1", "traceparent": TRACE})

    info = json.loads(client.get(f"/queue/{json.loads(added.content)['info']['id']}").content)["info"]
    assert (info["request_id"], info["traceparent"]) == ("r1", TRACE)
    assert _stored_headers(redis) == {"x-request-id": "r1", "traceparent": TRACE}


@pytest.mark.parametrize(
    "trace",
    ["", "00", TRACE.upper(), f"{TRACE}-x", TRACE.replace("b7ad6b7169203331", "0" * 16), f"ff{TRACE[2:]}", "x" * 5000],
)
def test_an_invalid_traceparent_is_not_stored(client: ApiClient, redis: Any, trace: str) -> None:
    added = client.post("/queue/add", {"queue": "simple", "data": {}}, traceparent=trace)

    assert added.status_code == 200
    assert _stored_headers(redis) == {"x-request-id": added["X-Request-ID"]}
