"""The OpenAPI schema is complete, valid, and has the routes of the reference."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, get_resolver
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from rest_framework.views import APIView

from queues.api.schema import SchemaView
from runqy.api.views import SwaggerView
from runqy.broker.states import TaskState
from tasks.api.enqueue_bodies import MAX_NAME_LENGTH

REFERENCE = """
POST /worker/register
POST /queue/add
GET /queue/{task_id}
GET /api/cli/queues
GET /api/cli/queues/{queue}
POST /api/cli/queues/{queue}/pause
POST /api/cli/queues/{queue}/unpause
POST /api/cli/tasks
GET /api/cli/queues/{queue}/tasks
GET /api/cli/queues/{queue}/tasks/{task_id}
DELETE /api/cli/tasks/{task_id}
DELETE /api/cli/queues/{queue}/tasks/{task_id}
GET /api/cli/workers
GET /api/cli/workers/{worker_id}
GET /api/cli/configs
POST /api/cli/configs/reload
POST /api/cli/configs
DELETE /api/cli/configs/{name}
GET /api/vaults
POST /api/vaults
GET /api/vaults/{name}
DELETE /api/vaults/{name}
POST /api/vaults/{name}/entries
GET /api/vaults/{name}/entries
DELETE /api/vaults/{name}/entries/{key}
"""
PUBLIC = {"/health", "/livez", "/readyz"}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Return the schema, generated without warnings."""
    GENERATOR_STATS.reset()
    with GENERATOR_STATS.silence():
        made = SchemaGenerator().get_schema(request=None, public=True)
    has_warnings = bool(GENERATOR_STATS)
    GENERATOR_STATS.reset()
    assert not has_warnings, "`manage.py spectacular` shows them"
    return json.loads(json.dumps(made))


def operations(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return path, method and description of every operation."""
    return [(path, method, operation) for path, item in schema["paths"].items() for method, operation in item.items()]


def test_it_is_openapi_3_1_and_valid(schema: dict[str, Any]) -> None:
    # Its import takes seconds, in every process that collects the tests.
    from drf_spectacular.validation import validate_schema  # noqa: PLC0415

    assert schema["openapi"] == "3.1.0"
    validate_schema(schema)


def test_a_process_makes_the_same_schema_each_time(schema: dict[str, Any]) -> None:
    with GENERATOR_STATS.silence():
        again = SchemaGenerator().get_schema(request=None, public=True)

    assert json.loads(json.dumps(again)) == schema


@pytest.mark.parametrize("route", REFERENCE.strip().splitlines())
def test_a_route_of_the_reference_is_in_it(schema: dict[str, Any], route: str) -> None:
    method, path = route.split()

    operation = schema["paths"][path][method.lower()]

    assert "deprecated" not in operation


def test_every_view_is_in_it(schema: dict[str, Any]) -> None:
    resolver = get_resolver()
    included = [pattern for entry in resolver.url_patterns for pattern in getattr(entry, "url_patterns", [entry])]
    served = {
        "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", str(pattern.pattern))
        for pattern in included
        if isinstance(pattern, URLPattern)
        and issubclass(getattr(pattern.callback, "cls", object), APIView)
        and pattern.callback.cls not in (SchemaView, SwaggerView)
    }

    assert served == schema["paths"].keys()


def test_every_operation_is_described(schema: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(schema)]

    assert len(ids) == len(set(ids))
    for path, method, operation in operations(schema):
        assert operation["summary"], (path, method)
        assert operation["tags"], (path, method)
        assert ("429" in operation["responses"]) == ("401" in operation["responses"]) == (path not in PUBLIC), (
            path,
            method,
        )


def test_every_operation_has_an_example_of_request_and_response_and_no_content_two(schema: dict[str, Any]) -> None:
    others = []
    for path, method, operation in operations(schema):
        responses = [
            operation["responses"][status].get("content", {}) for status in operation["responses"] if status < "300"
        ]
        bodies = [operation["requestBody"]["content"]] if "requestBody" in operation else []
        for contents in (
            [content for response in responses for content in response.values()],
            *map(dict.values, bodies),
        ):
            if contents and {*(len(content.get("examples", ())) for content in contents)} not in ({1}, {0, 1}):
                others.append(f"{method} {path}")

    assert others == []


def test_responses_refer_to_components(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                if "json" in media_type and "ndjson" not in media_type:
                    assert content["schema"].keys() == {"$ref"}, (path, method, status)


def test_a_task_is_one_component_with_one_enumeration_of_states(schema: dict[str, Any]) -> None:
    components = schema["components"]["schemas"]
    task = {"$ref": "#/components/schemas/Task"}

    with_states = [part for part in _walk(schema) if {*part.get("enum", ())} >= {*TaskState}]

    assert with_states == [components["TaskState"]]
    assert components["Task"]["properties"]["state"] == {"$ref": "#/components/schemas/TaskState"}
    assert [components[name]["properties"]["info"] for name in ("TaskResponse", "EnqueueResponse")] == [task, task]
    assert components["TaskPage"]["properties"]["tasks"]["items"] == task
    assert components["TaskDetail"]["allOf"][0] == task
    # The generators of Java, Go and Python would give both the name `result`.
    assert [name for name in components["Task"]["properties"] if name.lower() == "result"] == ["result"]


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    """Yield each object of the schema, except examples."""
    if isinstance(node, dict):
        yield node
    for name, part in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if name != "examples":
            yield from _walk(part)


def test_enumerations_have_names_that_say_whose_they_are(schema: dict[str, Any]) -> None:
    names = {name for name, each in schema["components"]["schemas"].items() if "enum" in each}

    assert {"AlertKind", "ApiKeyRole", "BatchCondition", "EndpointEvent", "EndpointKind", "EntryVersionEvent"} < names
    assert [name for name in names if len(re.findall("[A-Z]", name)) < 2 or name.endswith("Enum")] == []


def test_durations_have_their_defaults_in_seconds(schema: dict[str, Any]) -> None:
    parameters = schema["paths"]["/api/cli/queues/{queue}/demand"]["get"]["parameters"]

    assert [each["schema"]["default"] for each in parameters if each["name"] == "target_wait"] == [30]


def test_a_webhook_of_a_task_is_one_component(schema: dict[str, Any]) -> None:
    schemas = schema["components"]["schemas"]
    found = {
        name: each["properties"]["webhook"] for name, each in schemas.items() if "webhook" in each.get("properties", ())
    }

    assert found.keys() == {"AddBatch", "AddToBatch", "CallbackOptions", "CreateBatch", "Enqueue"}
    assert {each["$ref"] for each in found.values()} == {"#/components/schemas/TaskWebhook"}


def test_operation_ids_and_tags_are_names_of_methods_and_modules(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation["operationId"]), (path, method)
        assert len(operation["tags"]) == 1, (path, method)
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", operation["tags"][0]), (path, method)


def test_every_refusal_is_a_problem(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        for status, response in operation["responses"].items():
            if status >= "400" and path not in PUBLIC:
                assert response["content"].keys() == {"application/problem+json"}, (path, method, status)


def test_every_response_documents_its_headers(schema: dict[str, Any]) -> None:
    for path, method, operation in operations(schema):
        for status, response in operation["responses"].items():
            expected = {"X-Request-ID"} | ({"Retry-After"} if status in ("429", "503") else set())
            expected |= set() if path in PUBLIC else {"RateLimit", "RateLimit-Policy"}
            assert response["headers"].keys() == expected, (path, method, status)


@pytest.mark.parametrize("path", ["/api/schema/", "/swagger/doc.json"])
def test_it_is_public(schema: dict[str, Any], path: str) -> None:
    response = Client().get(path)

    assert response.status_code == 200
    assert json.loads(response.content)["paths"] == schema["paths"]


@pytest.mark.parametrize("body", ["Enqueue", "AddBatch", "RegisterWorker"])
def test_the_schema_bounds_queue_names_like_the_parser(schema: dict[str, Any], body: str) -> None:
    queue = schema["components"]["schemas"][body]["properties"]["queue"]

    assert (queue["minLength"], queue["maxLength"]) == (1, MAX_NAME_LENGTH)


def test_the_schema_has_the_rules_of_vault_names(schema: dict[str, Any]) -> None:
    vault = schema["components"]["schemas"]["CreateVault"]["properties"]
    description, blank = vault["description"]["oneOf"]

    assert [name for name in ("api-keys", "api keys") if re.search(vault["name"]["pattern"], name)] == ["api-keys"]
    assert [text for text in ("a\nb", "a\0b") if re.search(description["pattern"], text)] == ["a\nb"]
    assert blank["maxLength"] == 0
