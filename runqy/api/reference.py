"""Write the schema as docs/api.md: every route, with a curl command and a response."""

import json
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

Node = dict[str, Any]

_INTRO = """# HTTP API

Written from the schema by `manage.py write_api_docs`; a test compares. `/swagger/index.html` shows the same and sends
requests; `/api/schema/` is the schema itself (OpenAPI 3.1).

Every request needs a key, `Authorization: Bearer <key>` or `X-API-Key: <key>`, except those under *server*. Errors are
[problem+json](errors.md). [creating-tasks.md](creating-tasks.md) describes the options of a task (`delay`, `unique_key`
…). Below, `$RUNQY` is the server's address and `$KEY` a key.
"""
_VALUES = {
    "queue": "inference_high",
    "task_id": "task-uuid",
    "worker_id": "worker-abc123",
    "key": "OPENAI_API_KEY",
    "state": "retry",
    "If-Match": '"etag"',
}
_NAMES = {"vaults": "api-keys", "configs": "inference"}
_TAGS = ("tasks", "queues", "workers", "configs", "vaults", "keys", "server")


def write_reference(schema: Node) -> str:
    """Return the text of docs/api.md."""
    operations = [
        (path, method, operation) for path, item in schema["paths"].items() for method, operation in item.items()
    ]
    aliases = {operation["operationId"]: path for path, _, operation in operations if operation.get("deprecated")}
    parts = [_INTRO]
    for tag in sorted({operation["tags"][0] for _, _, operation in operations}, key=_rank):
        parts.append(f"## {tag.capitalize()}\n")
        for path, method, operation in operations:
            if operation["tags"][0] == tag and not operation.get("deprecated"):
                parts += _operation(path, method.upper(), operation, aliases.get(f"{operation['operationId']}_alias"))
    return "\n".join(parts).rstrip("\n") + "\n"


def _rank(tag: str) -> tuple[int, str]:
    """Return the position of a tag; unknown ones are last."""
    return (_TAGS.index(tag) if tag in _TAGS else len(_TAGS), tag)


def _operation(path: str, method: str, operation: Node, alias: str | None) -> Iterator[str]:
    """Yield the paragraphs about an operation."""
    yield f"### {method} {path}\n"
    summary, description = operation["summary"], operation.get("description", "")
    if not description.startswith(summary):
        yield summary + "\n"
    if description:
        yield description + "\n"
    if alias:
        yield f"Deprecated alias: `{alias}`.\n"
    if parameters := [one for one in operation.get("parameters", []) if one["in"] != "path"]:
        yield "".join(f"{_parameter(one)}\n" for one in parameters)
    yield _block("bash", _curl(path, method, operation))
    for status, response in operation["responses"].items():
        if status < "300" and (example := _example(response)) is not None:
            yield f"{status}:\n"
            yield _block("text", example.strip()) if isinstance(example, str) else _json_block(example)
    yield f"Statuses: {', '.join(sorted(operation['responses']))}.\n"


def _parameter(parameter: Node) -> str:
    """Return the line about a parameter."""
    location = f"{parameter['in']}, required" if parameter.get("required") else parameter["in"]
    values = ", ".join(f"`{value}`" for value in parameter.get("schema", {}).get("enum", ()))
    parts = [parameter.get("description", ""), f"one of {values}" if values else ""]
    return f"- `{parameter['name']}` ({location}): {'; '.join(filter(None, parts))}"


def _curl(path: str, method: str, operation: Node) -> str:
    """Return the command that sends a request."""
    values = _VALUES | {"name": _NAMES.get(operation["tags"][0], "name")}
    query: list[tuple[str, str]] = []
    headers: list[tuple[str, str]] = []
    for parameter in operation.get("parameters", []):
        name = parameter["name"]
        value = values.get(name, "1")
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", value)
        elif parameter.get("required"):
            (query if parameter["in"] == "query" else headers).append((name, value))
    address = f'"$RUNQY{path}?{urlencode(query)}"' if query else f"$RUNQY{path}"
    words = ["curl", address] if method == "GET" else ["curl", "-X", method, address]
    lines = [" ".join(words)]
    if {"ApiKey": []} in operation.get("security", []):
        lines.append('-H "Authorization: Bearer $KEY"')
    lines += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers]
    if "requestBody" in operation and (body := _example(operation["requestBody"])) is not None:
        lines.append("-H 'Content-Type: application/json'")
        lines.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join(lines)


def _example(holder: Node) -> Any:
    """Return the first example of a request's or a response's content, or None."""
    for content in holder.get("content", {}).values():
        for example in content.get("examples", {}).values():
            return example["value"]
    return None


def _json_block(value: Any) -> str:
    """Return a block of JSON."""
    return _block("json", json.dumps(value, indent=2, ensure_ascii=False))


def _block(language: str, text: str) -> str:
    """Return a block of code."""
    return f"```{language}\n{text}\n```\n"
