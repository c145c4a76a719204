"""Postprocessing hooks of the OpenAPI schema: links between operations, and response headers."""

from collections.abc import Iterator, Mapping
from typing import Any

_QUEUE_TASK = {"queue": "/info/queue", "task_id": "/info/id"}
_CREATED_TASK = {
    "get_task": {"task_id": "/info/id"},
    "cancel_task": {"task_id": "/info/id"},
    **dict.fromkeys(("get_queue_task", "delete_task", "archive_task", "run_task"), _QUEUE_TASK),
}
_CREATED_CONFIG = {
    **{name: {"name": "/queue/name"} for name in ("get_config", "replace_config", "delete_config")},
    **{name: {"queue": "/queue/name"} for name in ("get_queue", "pause_queue", "unpause_queue", "list_tasks")},
}
_CREATED_VAULT = {
    name: {"name": "/vault/name"} for name in ("get_vault", "set_vault_entry", "list_vault_entries", "delete_vault")
}
_CREATED_KEY = {name: {"key_id": "/api_key/id"} for name in ("get_api_key", "revoke_api_key")}

LINKS: Mapping[str, Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "enqueue_task": {"200": _CREATED_TASK},
    "create_task": {"200": _CREATED_TASK},
    "create_config": {"201": _CREATED_CONFIG},
    "create_vault": {"201": _CREATED_VAULT},
    "create_api_key": {"201": _CREATED_KEY},
}
"""By operation, status and target operation, the JSON pointers of the target's parameters in the response body."""

_HEADERS = {
    "X-Request-ID": ("The id of the request: the client's, or a generated one", {"type": "string"}),
    "Retry-After": ("Seconds until the request may be repeated", {"type": "integer", "minimum": 0}),
    "RateLimit": ("Requests that the key has left, if it is limited", {"type": "string"}),
    "RateLimit-Policy": ("Rate limit of the key, if it is limited", {"type": "string"}),
}
_BUSY = ("429", "503")


def describe_headers(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add the headers that responses have or may have."""
    headers = {name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()}
    headers["X-Request-ID"]["required"] = headers["Retry-After"]["required"] = True
    result.setdefault("components", {})["headers"] = headers
    for operation in _operations(result):
        limited = ("RateLimit", "RateLimit-Policy") if operation.get("security") else ()
        for status, response in operation["responses"].items():
            names = ("X-Request-ID", *(("Retry-After",) if status in _BUSY else ()), *limited)
            response.setdefault("headers", {}).update({n: {"$ref": f"#/components/headers/{n}"} for n in names})
    return result


def add_links(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    for operation in _operations(result):
        for status, targets in LINKS.get(operation["operationId"].removesuffix("_alias"), {}).items():
            operation["responses"][status]["links"] = {
                target: {
                    "operationId": target,
                    "parameters": {name: f"$response.body#{pointer}" for name, pointer in parameters.items()},
                }
                for target, parameters in targets.items()
            }
    return result


def _operations(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in result["paths"].values():
        yield from methods.values()
