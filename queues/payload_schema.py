"""Payload schemas: validate payloads, keeping the bytes that the client sent, and build example payloads."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, DecimalException
from typing import Any

import msgspec

from queues.definitions import FieldType, PayloadField
from runqy.core.formats.names import DEFAULT_SUB_QUEUE
from runqy.errors import PayloadInvalid

_TYPE_BY_FIRST_BYTE = {
    ord('"'): FieldType.STRING,
    ord("{"): FieldType.OBJECT,
    ord("["): FieldType.ARRAY,
    ord("t"): FieldType.BOOL,
    ord("f"): FieldType.BOOL,
}
_EXAMPLES = {
    FieldType.STRING: '"text"',
    FieldType.INT: "1",
    FieldType.FLOAT: "0.5",
    FieldType.BOOL: "true",
    FieldType.ARRAY: "[]",
    FieldType.OBJECT: "{}",
}
MAX_DEFAULT_DEPTH = 32
"""Levels of lists and objects in a default. Readers of JSON and YAML fail at some hundreds."""
TOO_DEEP = f"Must not be nested deeper than {MAX_DEFAULT_DEPTH} levels."
_EXAMPLE_WITHOUT_SCHEMA = '{"message": "Hello world"}'


def complete(schema: Sequence[PayloadField], members: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """Validate the members of a payload, raw JSON by name, and return the defaults that must be appended to it.

    Unknown members are accepted. Raise PayloadInvalid, whose `errors` name each invalid field.
    """
    errors = tuple(_errors(schema, members))
    if errors:
        raise PayloadInvalid(errors=errors)
    return tuple(
        (field.name, field.default_json.encode())
        for field in schema
        if field.default_json is not None and field.name not in members
    )


def fits(raw: bytes, types: Sequence[FieldType]) -> bool:
    kind = _TYPE_BY_FIRST_BYTE.get(raw[0])
    if kind is not None:
        return kind in types
    if raw[0] == ord("n"):
        return False
    return FieldType.FLOAT in types or (FieldType.INT in types and _is_integral(raw))


def is_nested_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEFAULT_DEPTH):
        level = [child for item in level for child in _children(item)]
    return any(isinstance(item, Mapping | list) for item in level)


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else ()


def payload_field_errors(field: PayloadField) -> Iterator[tuple[str, str]]:
    """Yield the errors of a field of a schema: the key of a member, and a message."""
    texts = (field.name, field.description, *_texts(field.default_json))
    # PostgreSQL stores no NUL in text or JSON.
    if any("\0" in text for text in texts):
        yield "default" if "\0" in "".join(texts[2:]) else "name", "Null characters are not allowed."
    if not field.name:
        yield "name", "This field may not be blank."
    if not field.type:
        yield "type", "Select at least one type."
    elif field.default_json is not None and not fits(field.default_json.encode(), field.type):
        yield "default", f"Must be of type {' or '.join(field.type)}."


def example_payload(schema: Sequence[PayloadField]) -> str:
    """Return a JSON object with all fields of a schema: their default, or an example of their first type."""
    if not schema:
        return _EXAMPLE_WITHOUT_SCHEMA
    members = (f"{json.dumps(field.name, ensure_ascii=False)}: {_example_value(field)}" for field in schema)
    return "{" + ", ".join(members) + "}"


def example_queue_name(queue: str, sub_queues: Sequence[str]) -> str:
    """Return a name under which a queue with these sub-queues accepts tasks."""
    has_own = not sub_queues or DEFAULT_SUB_QUEUE in sub_queues
    return queue if has_own else f"{queue}.{sub_queues[0]}"


def example_body(queue: str, payload: str) -> str:
    """Return the body of `POST /queue/add` that enqueues a payload."""
    return f'{{"queue": {json.dumps(queue, ensure_ascii=False)}, "data": {payload}}}'


def example_curl(server_url: str, queue: str, payload: str) -> str:
    """Return the curl command that enqueues a payload; the shell has the key in `RUNQY_API_KEY`."""
    return (
        f"curl -X POST {shlex.quote(f'{server_url}/queue/add')} \\\n"
        '  -H "Authorization: Bearer $RUNQY_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(example_body(queue, payload))}"
    )


def _example_value(field: PayloadField) -> str:
    return field.default_json if field.default_json is not None else _EXAMPLES[field.type[0]]


def _texts(default_json: str | None) -> Iterator[str]:
    values: list[object] = [] if default_json is None else [msgspec.json.decode(default_json)]
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            values += value
        elif isinstance(value, dict):
            values += [*value, *value.values()]


def _errors(schema: Sequence[PayloadField], members: Mapping[str, bytes]) -> Iterator[str]:
    for field in schema:
        raw = members.get(field.name)
        if raw is None:
            if field.required:
                yield f"{field.name}: This field is required."
        elif not fits(raw, field.type):
            yield f"{field.name}: Must be {' or '.join(field.type)}, is {_type_name(raw)}."


def _is_integral(raw: bytes) -> bool:
    """Return whether a JSON number is integral in any notation, such as 3, 3.0 and 3e2."""
    if raw.isdigit():
        return True
    try:
        number = Decimal(raw.decode("ascii"))
    except (DecimalException, UnicodeDecodeError):
        return False
    return number == number.to_integral_value()


def _type_name(raw: bytes) -> str:
    if raw[0] == ord("n"):
        return "null"
    kind = _TYPE_BY_FIRST_BYTE.get(raw[0])
    return kind or ("int" if _is_integral(raw) else "float")
