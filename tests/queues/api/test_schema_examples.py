"""With a key, the examples of the OpenAPI schema name a queue that the key may use, and are accepted as they are."""

import json
from typing import Any

import pytest

from queues.definitions import FieldType, PayloadField
from queues.models import QueueSource
from queues.operations import disable_queue, save_queue
from runqy.accounts.operations import create_api_key
from runqy.core.api_keys import Role
from tests.api.client import ApiClient
from tests.queues.samples import spec

CREATING = (
    "/queue/add",
    "/queue/add-batch",
    "/api/cli/tasks",
    "/batches",
    "/api/schedules",
    "/api/bulk-actions",
    "/api/keys",
    "/api/webhooks",
)


@pytest.fixture
def typed_queue(configuration: None) -> None:
    """Create a disabled queue and one with a payload schema, neither of which the reference names."""
    save_queue(spec=spec("archive"), source=QueueSource.API)
    disable_queue(name="archive")
    fields = tuple(
        PayloadField(name=kind.value, type=(kind,), required=True, default_json="7" if kind is FieldType.INT else None)
        for kind in FieldType
    )
    save_queue(spec=spec("mail", "high:10", "low:3", input=fields), source=QueueSource.API)
    save_queue(spec=spec("secret"), source=QueueSource.API)


def read_schema(key: ApiClient) -> dict[str, Any]:
    response = key.get("/api/schema/")
    assert response.status_code == 200
    found: dict[str, Any] = json.loads(response.content)
    return found


def example_of(schema: dict[str, Any], path: str) -> Any:
    (content,) = schema["paths"][path]["post"]["requestBody"]["content"].values()
    (example,) = content["examples"].values()
    return example["value"]


def test_examples_are_accepted_as_they_are(typed_queue: None) -> None:
    client = ApiClient()
    schema = read_schema(client)

    responses = {path: client.post(path, example_of(schema, path)) for path in CREATING}

    refused = {path: response.content for path, response in responses.items() if response.status_code >= 300}
    assert refused == {}
    assert json.loads(responses["/queue/add-batch"].content)["enqueued"] == 2


def test_a_path_names_the_first_enabled_queue_of_the_key(typed_queue: None) -> None:
    limited = create_api_key(name="shop", role=Role.CLIENT, queues=["secret"])
    path = "/api/cli/queues/{queue}/tasks"

    schemas = [read_schema(client) for client in (ApiClient(), ApiClient(limited.plain), ApiClient(None))]

    found = [schema["paths"][path]["get"]["parameters"] for schema in schemas]
    assert [next(p for p in each if p["name"] == "queue").get("example") for each in found] == [
        "mail_high",
        "secret",
        None,
    ]
    assert ["secret" in json.dumps(example_of(schema, "/queue/add")) for schema in schemas] == [False, True, False]


def test_the_server_is_the_one_that_was_requested(configuration: None, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["runqy.internal"]

    allowed, other = (
        json.loads(ApiClient(None).get("/api/schema/", Host=host).content)["servers"]
        for host in ("runqy.internal:3000", "evil.example.com")
    )

    assert (allowed, other) == ([{"url": "http://runqy.internal:3000"}], [{"url": "/"}])
