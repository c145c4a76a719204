"""Makes payloads that fit a queue's schema, to be shown and tried."""

import json
import shlex
from collections.abc import Sequence

from queues.definitions import DEFAULT_SUB_QUEUE, FieldType, PayloadField

__all__ = ["curl_line", "example_payload", "example_queue", "task_body"]

_EXAMPLES = {
    FieldType.STRING: '"text"',
    FieldType.INT: "1",
    FieldType.FLOAT: "0.5",
    FieldType.BOOL: "true",
    FieldType.ARRAY: "[]",
    FieldType.OBJECT: "{}",
}
_WITHOUT_SCHEMA = '{"message": "Hello world"}'


def example_payload(schema: Sequence[PayloadField]) -> str:
    """Return a JSON object with every field of a schema: its default, else an example of its first type."""
    if not schema:
        return _WITHOUT_SCHEMA
    members = (f"{json.dumps(field.name, ensure_ascii=False)}: {_example(field)}" for field in schema)
    return "{" + ", ".join(members) + "}"


def example_queue(queue: str, sub_queues: Sequence[str]) -> str:
    """Return a name under which a queue with these sub-queues takes tasks."""
    has_own = not sub_queues or DEFAULT_SUB_QUEUE in sub_queues
    return queue if has_own else f"{queue}.{sub_queues[0]}"


def task_body(queue: str, payload: str) -> str:
    """Return what `POST /queue/add` takes to put a payload on a queue."""
    return f'{{"queue": {json.dumps(queue, ensure_ascii=False)}, "data": {payload}}}'


def curl_line(origin: str, queue: str, payload: str) -> str:
    """Return the command that puts a payload on a queue of the server at an origin, for a shell that knows the key."""
    body = task_body(queue, payload)
    return (
        f"curl -X POST {shlex.quote(f'{origin}/queue/add')} \\\n"
        '  -H "Authorization: Bearer $RUNQY_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(body)}"
    )


def _example(field: PayloadField) -> str:
    """Return a value for a field."""
    return field.default_json if field.default_json is not None else _EXAMPLES[field.type[0]]
