"""Writes the schema out as docs/api.md: every route, with curl and an answer."""

import json
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

Node = dict[str, Any]

_INTRO = """# HTTP API

Written from the schema by `manage.py write_api_docs`; a test compares. The same, to read and to try, is at
`/swagger/index.html`, and for programs at `/api/schema/` (OpenAPI 3.1).

Every request carries a key, `Authorization: Bearer <key>` or `X-API-Key: <key>`, but those under *server*. What is
refused is told as [problem+json](errors.md), and what may be asked for with a task (`delay`, `unique_key` …) is in
[creating-tasks.md](creating-tasks.md). Below, `$RUNQY` is the server's address and `$KEY` a key.
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
    operations = [(path, method, told) for path, item in schema["paths"].items() for method, told in item.items()]
    aliases = {told["operationId"]: path for path, _, told in operations if told.get("deprecated")}
    parts = [_INTRO]
    for tag in sorted({told["tags"][0] for _, _, told in operations}, key=_rank):
        parts.append(f"## {tag.capitalize()}\n")
        for path, method, told in operations:
            if told["tags"][0] == tag and not told.get("deprecated"):
                parts += _operation(path, method.upper(), told, aliases.get(f"{told['operationId']}_alias"))
    return "\n".join(parts).rstrip("\n") + "\n"


def _rank(tag: str) -> tuple[int, str]:
    """Return where a tag stands; new ones stand last."""
    return (_TAGS.index(tag) if tag in _TAGS else len(_TAGS), tag)


def _operation(path: str, method: str, told: Node, alias: str | None) -> Iterator[str]:
    """Give the paragraphs about one operation."""
    yield f"### {method} {path}\n"
    summary, description = told["summary"], told.get("description", "")
    if not description.startswith(summary):
        yield summary + "\n"
    if description:
        yield description + "\n"
    if alias:
        yield f"Deprecated alias: `{alias}`.\n"
    if parameters := [one for one in told.get("parameters", []) if one["in"] != "path"]:
        yield "".join(f"{_parameter(one)}\n" for one in parameters)
    yield _block("bash", _curl(path, method, told))
    for status, answer in told["responses"].items():
        if status < "300" and (example := _example(answer)) is not None:
            yield f"{status}:\n"
            yield _block("json", json.dumps(example, indent=2, ensure_ascii=False))
    yield f"Statuses: {', '.join(sorted(told['responses']))}.\n"


def _parameter(parameter: Node) -> str:
    """Return the line about a parameter."""
    place = f"{parameter['in']}, required" if parameter.get("required") else parameter["in"]
    values = ", ".join(f"`{value}`" for value in parameter.get("schema", {}).get("enum", ()))
    told = [parameter.get("description", ""), f"one of {values}" if values else ""]
    return f"- `{parameter['name']}` ({place}): {'; '.join(filter(None, told))}"


def _curl(path: str, method: str, told: Node) -> str:
    """Return the command that sends a request."""
    values = _VALUES | {"name": _NAMES.get(told["tags"][0], "name")}
    query: list[tuple[str, str]] = []
    headers: list[tuple[str, str]] = []
    for parameter in told.get("parameters", []):
        name = parameter["name"]
        value = values.get(name, "1")
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", value)
        elif parameter.get("required"):
            (query if parameter["in"] == "query" else headers).append((name, value))
    address = f'"$RUNQY{path}?{urlencode(query)}"' if query else f"$RUNQY{path}"
    words = ["curl", address] if method == "GET" else ["curl", "-X", method, address]
    lines = [" ".join(words)]
    if {"ApiKey": []} in told.get("security", []):
        lines.append('-H "Authorization: Bearer $KEY"')
    lines += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers]
    if "requestBody" in told and (body := _example(told["requestBody"])) is not None:
        lines.append("-H 'Content-Type: application/json'")
        lines.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join(lines)


def _example(holder: Node) -> Any:
    """Return the first example of a request's or an answer's content, or None."""
    for content in holder.get("content", {}).values():
        for example in content.get("examples", {}).values():
            return example["value"]
    return None


def _block(language: str, text: str) -> str:
    """Return a block of code."""
    return f"```{language}\n{text}\n```\n"
