"""Makes payloads that fit a queue's schema, to be shown and tried."""

import json
import shlex
from collections.abc import Sequence

from queues.definitions import FieldType, PayloadField

__all__ = ["curl_line", "example_payload"]

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


def curl_line(origin: str, queue: str, payload: str) -> str:
    """Return the command that puts a payload on a queue of the server at an origin, for a shell that knows the key."""
    body = f'{{"queue": {json.dumps(queue)}, "data": {payload}}}'
    return (
        f"curl -X POST {shlex.quote(f'{origin}/queue/add')} \\\n"
        '  -H "Authorization: Bearer $RUNQY_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(body)}"
    )


def _example(field: PayloadField) -> str:
    """Return a value for a field."""
    return field.default_json if field.default_json is not None else _EXAMPLES[field.type[0]]
