"""Writes the schema out as docs/api.md: every route, with curl and an answer."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

Node = dict[str, Any]

_INTRO = """# HTTP API

Written from the schema by `manage.py write_api_docs`; a test compares. The same, to read and to try, is at
`/swagger/index.html`, and for programs at `/api/schema/` (OpenAPI 3.1).

Every request carries a key, `Authorization: Bearer <key>` or `X-API-Key: <key>`, but those under *server*. What is
refused is told as [problem+json](errors.md). Below, `$RUNQY` is the server's address and `$KEY` a key.
"""
_VALUES = {"queue": "inference_high", "task_id": "task-uuid", "worker_id": "worker-abc123", "key": "OPENAI_API_KEY"}
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
    yield told["summary"] + "\n"
    if "description" in told:
        yield told["description"] + "\n"
    if alias:
        yield f"Deprecated alias: `{alias}`.\n"
    if parameters := [one for one in told.get("parameters", []) if one["in"] != "path"]:
        yield "".join(f"- `{one['name']}` ({one['in']}): {one.get('description', '')}\n" for one in parameters)
    yield _block("bash", _curl(path, method, told))
    for status, answer in told["responses"].items():
        if status < "300" and (example := _example(answer)) is not None:
            yield f"{status}:\n"
            yield _block("json", json.dumps(example, indent=2, ensure_ascii=False))
    yield f"Statuses: {', '.join(sorted(told['responses']))}.\n"


def _curl(path: str, method: str, told: Node) -> str:
    """Return the command that sends a request."""
    values = _VALUES | {"name": _NAMES.get(told["tags"][0], "name")}
    for parameter in told.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", values.get(parameter["name"], "1"))
    words = ["curl", f"$RUNQY{path}"] if method == "GET" else ["curl", "-X", method, f"$RUNQY{path}"]
    lines = [" ".join(words)]
    if {"ApiKey": []} in told.get("security", []):
        lines.append('-H "Authorization: Bearer $KEY"')
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
