"""The schema says what the API does: nothing missing, nothing unclear, the reference's routes among it."""

import json
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, get_resolver
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from rest_framework.views import APIView

from runqy.api.views import SchemaView, SwaggerView
from runqy.openapi_hooks import LINKS
from tasks.api.options import MAX_NAME_LENGTH

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
    """Return the schema, made without a word of warning."""
    GENERATOR_STATS.reset()
    with GENERATOR_STATS.silence():
        made = SchemaGenerator().get_schema(request=None, public=True)
    has_warnings = bool(GENERATOR_STATS)
    GENERATOR_STATS.reset()
    assert not has_warnings, "`manage.py spectacular` shows them"
    return json.loads(json.dumps(made))


def operations(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return path, method and description of every operation."""
    return [(path, method, told) for path, item in schema["paths"].items() for method, told in item.items()]


def test_it_is_openapi_3_1_and_valid(schema: dict[str, Any]) -> None:
    assert schema["openapi"] == "3.1.0"
    validate_schema(schema)


@pytest.mark.parametrize("route", REFERENCE.strip().splitlines())
def test_a_route_of_the_reference_is_in_it(schema: dict[str, Any], route: str) -> None:
    method, path = route.split()

    told = schema["paths"][path][method.lower()]

    assert "deprecated" not in told


def test_every_view_is_in_it(schema: dict[str, Any]) -> None:
    resolver = get_resolver()
    included = [pattern for entry in resolver.url_patterns for pattern in getattr(entry, "url_patterns", [entry])]
    served = {
        "/" + str(pattern.pattern).replace("<str:", "{").replace("<int:", "{").replace(">", "}")
        for pattern in included
        if isinstance(pattern, URLPattern)
        and issubclass(getattr(pattern.callback, "cls", object), APIView)
        and pattern.callback.cls not in (SchemaView, SwaggerView)
    }

    assert served == schema["paths"].keys()


def test_every_operation_is_described(schema: dict[str, Any]) -> None:
    ids = [told["operationId"] for _, _, told in operations(schema)]

    assert len(ids) == len(set(ids))
    for path, method, told in operations(schema):
        assert told["summary"], (path, method)
        assert told["tags"], (path, method)
        assert ("429" in told["responses"]) == ("401" in told["responses"]) == (path not in PUBLIC), (path, method)


def test_every_operation_shows_an_example_of_what_goes_in_and_out(schema: dict[str, Any]) -> None:
    lacking = []
    for path, method, told in operations(schema):
        answers = [told["responses"][status].get("content", {}) for status in told["responses"] if status < "300"]
        bodies = [told["requestBody"]["content"]] if "requestBody" in told else []
        for contents in ([content for answer in answers for content in answer.values()], *map(dict.values, bodies)):
            if contents and not any("examples" in content for content in contents):
                lacking.append(f"{method} {path}")

    assert lacking == []


def test_every_refusal_is_a_problem(schema: dict[str, Any]) -> None:
    for path, method, told in operations(schema):
        for status, answer in told["responses"].items():
            if status >= "400" and path not in PUBLIC:
                assert answer["content"].keys() == {"application/problem+json"}, (path, method, status)


def test_every_answer_tells_its_headers(schema: dict[str, Any]) -> None:
    for path, method, told in operations(schema):
        for status, answer in told["responses"].items():
            expected = {"X-Request-ID"} | ({"Retry-After"} if status in ("429", "503") else set())
            expected |= set() if path in PUBLIC else {"RateLimit", "RateLimit-Policy"}
            assert answer["headers"].keys() == expected, (path, method, status)


def test_links_lead_to_operations_from_what_answers_have(schema: dict[str, Any]) -> None:
    by_id = {told["operationId"]: (path, told) for path, _, told in operations(schema)}

    seen = set()
    for source, (_, told) in by_id.items():
        for status, answer in told["responses"].items():
            for link in answer.get("links", {}).values():
                path, target = by_id[link["operationId"]]
                needed = {p["name"] for p in target["parameters"] if p["in"] == "path"}
                assert link["parameters"].keys() == needed, (source, path)
                examples = answer["content"]["application/json"]["examples"].values()
                for place in link["parameters"].values():
                    assert any(_at(example["value"], place) is not None for example in examples), (source, place)
                seen.add((source, status))

    assert {source.removesuffix("_alias") for source, _ in seen} == LINKS.keys()


def _at(content: Any, place: str) -> Any:
    """Return what stands at a JSON pointer of a body."""
    for name in place.removeprefix("$response.body#/").split("/"):
        content = content[name]
    return content


@pytest.mark.parametrize("path", ["/api/schema/", "/swagger/doc.json"])
def test_it_is_served_to_everybody(schema: dict[str, Any], path: str) -> None:
    answer = Client().get(path)

    assert answer.status_code == 200
    assert json.loads(answer.content)["paths"] == schema["paths"]


@pytest.mark.parametrize("body", ["Enqueue", "Batch", "RegisterWorker"])
def test_the_name_of_a_queue_is_bounded_as_it_is_when_read(schema: dict[str, Any], body: str) -> None:
    queue = schema["components"]["schemas"][body]["properties"]["queue"]

    assert (queue["minLength"], queue["maxLength"]) == (1, MAX_NAME_LENGTH)


def test_what_a_new_vault_is_refused_for_is_in_its_schema(schema: dict[str, Any]) -> None:
    vault = schema["components"]["schemas"]["CreateVault"]["properties"]
    description, blank = vault["description"]["oneOf"]

    assert [name for name in ("import", "imports", "an import") if re.search(vault["name"]["pattern"], name)] == [
        "imports"
    ]
    assert [text for text in ("a\nb", "a\0b") if re.search(description["pattern"], text)] == ["a\nb"]
    assert blank["maxLength"] == 0
