"""The OpenAPI schema as JSON. With a key, its examples name a queue that the key may use.

So a request of Swagger's *Try it out* succeeds as it is. Without a key it names no queue of this server.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, cast

import msgspec
from django.core.exceptions import DisallowedHost
from django.http import HttpResponse
from django.urls import get_script_prefix
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularJSONAPIView
from rest_framework.request import Request

from queues.catalog import AllowedQueues
from queues.definitions import FieldType, PayloadField
from queues.queries import get_fresh_catalog
from runqy.accounts.authentication import BearerTokenAuthentication
from runqy.core.api_keys import Identity

_QUEUE, _REDIS_QUEUE = "inference", "inference_high"
"""The queue in the examples of the reference."""
_VALUES: Mapping[FieldType, object] = {
    FieldType.STRING: "Hello world",
    FieldType.INT: 1,
    FieldType.FLOAT: 0.5,
    FieldType.BOOL: True,
    FieldType.ARRAY: [],
    FieldType.OBJECT: {},
}


@dataclass(frozen=True, slots=True)
class ExampleQueue:
    """A queue for examples, with a payload that its schema accepts; null if it accepts any."""

    name: str
    redis_queue: str
    payload_json: str


class SchemaView(SpectacularJSONAPIView):
    """The OpenAPI schema. It needs no key."""

    authentication_classes = (BearerTokenAuthentication,)
    permission_classes = ()
    throttle_classes = ()

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: object, **kwargs: object) -> HttpResponse:
        identity = cast("Identity | None", request.auth)
        example = find_example_queue(identity.queues) if identity else None
        response = HttpResponse(_render(_find_url(request), example), content_type=OpenApiJsonRenderer2.media_type)
        response["Vary"] = "Authorization, X-API-Key, Host"
        return response


def find_example_queue(allowed_queues: AllowedQueues) -> ExampleQueue | None:
    """Return the first enabled queue that a client may use. Raise ConfigurationUnavailable."""
    for each in get_fresh_catalog().all_redis_queues():
        if each.queue.is_enabled and (allowed_queues is None or each.queue.name in allowed_queues):
            payload = {field.name: _value_of(field) for field in each.queue.input} or None
            return ExampleQueue(each.queue.name, each.redis_queue, msgspec.json.encode(payload).decode())
    return None


def _value_of(field: PayloadField) -> object:
    return _VALUES[field.type[0]] if field.default_json is None else msgspec.json.decode(field.default_json)


def _find_url(request: Request) -> str:
    """Return the URL of the server as the client has it; empty for a host name that is not allowed."""
    try:
        return request.build_absolute_uri(get_script_prefix()).rstrip("/")
    except DisallowedHost:
        return ""


@cache
def _generate() -> dict[str, Any]:
    """Return the schema. It is generated once in each process, since that takes a third of a second."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return schema


@lru_cache(maxsize=8)
def _render(url: str, example: ExampleQueue | None) -> bytes:
    schema = _generate()
    if example:
        schema = deepcopy(schema)
        for path, operation in _operations(schema):
            _name_queue(path, operation, example)
    if url:
        others = [server for server in schema["servers"] if server["url"] not in ("/", url)]
        schema = {**schema, "servers": [{"url": url}, *others]}
    rendered: bytes = OpenApiJsonRenderer2().render(schema)
    return rendered


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((path, operation) for path, methods in schema["paths"].items() for operation in methods.values())


def _name_queue(path: str, operation: dict[str, Any], example: ExampleQueue) -> None:
    """Let the example of a request, and its path, name a queue."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] == "queue":
            parameter["example"] = example.redis_queue
    if operation["tags"] == ["configs"]:
        return  # these examples would overwrite the queue
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for each in content.get("examples", {}).values():
            each["value"] = _replace(each["value"], example, msgspec.json.decode(example.payload_json))


def _replace(value: Any, example: ExampleQueue, payload: Any) -> Any:
    """Return an example with another queue, and with its payload if it has one."""
    if isinstance(value, list):
        return [_replace(part, example, payload) for part in value]
    if isinstance(value, str):
        return {_QUEUE: example.name, _REDIS_QUEUE: example.redis_queue}.get(value, value)
    if not isinstance(value, dict):
        return value
    replaced = {name: _replace(part, example, payload) for name, part in value.items()}
    if payload is not None:
        replaced |= {name: payload for name in ("data", "payload") if name in value}
        if "jobs" in value:
            replaced["jobs"] = [{**job, "data": payload} if "data" in job else payload for job in value["jobs"]]
    return replaced
