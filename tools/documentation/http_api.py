"""The reference of the HTTP API, from its OpenAPI schema: a page for each tag."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.documentation.django_setup import set_up_django

set_up_django()

from drf_spectacular.generators import SchemaGenerator  # noqa: E402
from drf_spectacular.renderers import OpenApiYamlRenderer  # noqa: E402

from tools.documentation.tables import cell, table  # noqa: E402

Schema = Mapping[str, Any]

_TITLES = {"configs": "Queue definitions", "history": "History of runs", "keys": "API keys"}
_MAX_DEPTH = 3
"""How many levels of objects a table shows."""


def get_schema() -> dict[str, Any]:
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return schema


def schema_as_yaml(schema: Schema) -> str:
    return OpenApiYamlRenderer().render(schema).decode()


def build_pages(schema: Schema) -> dict[str, str]:
    """Return the Markdown of each page by its file's name."""
    operations = defaultdict(list)
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            operations[operation["tags"][0]].append((f"{method.upper()} {path}", operation))
    return {f"{tag.replace(' ', '-')}.md": _Page(schema).build(tag, found) for tag, found in operations.items()}


class _Page:
    """Renders the operations of a tag."""

    def __init__(self, schema: Schema) -> None:
        self._schemas: Schema = schema["components"]["schemas"]

    def build(self, tag: str, operations: Sequence[tuple[str, Schema]]) -> str:
        title = _TITLES.get(tag, tag.capitalize())
        current = [(route, operation) for route, operation in operations if not operation.get("deprecated")]
        aliases = [(route, operation["operationId"]) for route, operation in operations if operation.get("deprecated")]
        parts = [f"# {title}", *(self._operation(route, operation) for route, operation in current)]
        if aliases:
            names = {operation["operationId"]: route for route, operation in current}
            rows = [(f"`{route}`", f"`{names[name.removesuffix('_alias')]}`") for route, name in aliases]
            parts += ["## Deprecated paths", "Paths of released clients:", table(("path", "instead"), rows)]
        return "\n\n".join(parts) + "\n"

    def _operation(self, route: str, operation: Schema) -> str:
        heading = operation["summary"].rstrip(".")
        parts = [f"## {heading} {{ #{operation['operationId']} }}", f"```http\n{route}\n```"]
        if description := operation.get("description"):
            parts.append(description)
        parts.append(_access(operation))
        if rows := [self._parameter(one) for one in operation.get("parameters", ())]:
            parts += ["**Parameters**", table(("name", "in", "type", "description"), rows)]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            parts += ["**Body**", self._members(content["schema"], is_request=True), *_examples(content)]
        parts.append("**Responses**")
        parts += self._responses(operation["responses"])
        return "\n\n".join(part for part in parts if part)

    def _parameter(self, parameter: Schema) -> tuple[str, ...]:
        name = f"`{parameter['name']}`" + (" (required)" if parameter.get("required") else "")
        return name, parameter["in"], self._type(parameter["schema"]), _text(parameter, parameter["schema"])

    def _responses(self, responses: Schema) -> Iterator[str]:
        problems = []
        for status, response in responses.items():
            content = response.get("content", {})
            if "application/problem+json" in content:
                problems.append(status)
                continue
            yield f"**{status}**" + (f": {response['description']}" if response.get("description") else "")
            for media_type, body in content.items():
                if media_type != "application/json":
                    yield f"`{media_type}`"
                yield from _examples(body)
                if members := self._members(body["schema"]):
                    yield f'??? note "Members"\n\n{_indented(members)}'
        if problems:
            yield f"Errors: {', '.join(problems)} ([codes](../errors.md))."

    def _members(self, schema: Schema, *, is_request: bool = False) -> str:
        """Return a table of an object's members, empty for what is no object. A request's are marked if required."""
        rows = list(self._rows(schema, "", 0, is_request=is_request))
        description = self._resolve(schema).get("description", "")
        return "\n\n".join(filter(None, [description, table(("member", "type", "description"), rows) if rows else ""]))

    def _rows(self, schema: Schema, prefix: str, depth: int, *, is_request: bool) -> Iterator[tuple[str, ...]]:
        resolved = self._object(schema)
        for name, member in resolved.get("properties", {}).items():
            mark = " (required)" if is_request and name in resolved.get("required", ()) else ""
            label = f"{prefix}{name}"
            yield f"`{label}`{mark}", self._type(member), _text(member, self._resolve(member))
            if depth < _MAX_DEPTH:
                separator = "[]." if self._is_list(member) else "."
                yield from self._rows(member, label + separator, depth + 1, is_request=is_request)

    def _object(self, schema: Schema) -> Schema:
        """Return the object that a schema describes, also as the item of a list or beside null."""
        resolved = self._resolve(schema)
        if "items" in resolved:
            return self._object(resolved["items"])
        for part in (*resolved.get("anyOf", ()), *resolved.get("oneOf", ())):
            if found := self._object(part):
                return found
        return resolved if "properties" in resolved else {}

    def _is_list(self, schema: Schema) -> bool:
        return "items" in self._resolve(schema)

    def _resolve(self, schema: Schema) -> Schema:
        if reference := schema.get("$ref"):
            return self._resolve(self._schemas[reference.rpartition("/")[2]])
        if "allOf" not in schema:
            return schema
        merged: dict[str, Any] = {}
        for part in (*schema["allOf"], {key: value for key, value in schema.items() if key != "allOf"}):
            resolved = self._resolve(part)
            properties = {**merged.get("properties", {}), **resolved.get("properties", {})}
            merged |= {**resolved, **({"properties": properties} if properties else {})}
        return merged

    def _type(self, schema: Schema) -> str:
        schema = self._resolve(schema)
        if values := [value for value in schema.get("enum", ()) if value not in ("", None)]:
            return ", ".join(f"`{value}`" for value in values)
        if parts := (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            return " or ".join(dict.fromkeys(self._type(part) for part in parts))
        if "items" in schema:
            return f"list of {self._type(schema['items'])}"
        types = schema.get("type", "any JSON")
        names = [types] if isinstance(types, str) else types
        return " or ".join({"date-time": "timestamp"}.get(schema.get("format", ""), name) for name in names)


def _access(operation: Schema) -> str:
    if not operation.get("security"):
        return "No key is needed."
    if not (roles := operation.get("x-roles")):
        return ""
    return f"Roles: {', '.join(f'`{role}`' for role in roles)}."


def _text(described: Schema, schema: Schema) -> str:
    """Return a description with the limits and the default of a value."""
    limits = [
        f"{words} {schema[key]:,}" + unit
        for key, words, unit in (
            ("minimum", "at least", ""),
            ("maximum", "at most", ""),
            ("maxLength", "at most", " characters"),
            ("maxItems", "at most", " items"),
        )
        if key in schema and abs(schema[key]) < 10**15
    ]
    if schema.get("default") not in (None, ""):
        limits.append(f"default `{json.dumps(schema['default'])}`")
    text = described.get("description", "")
    return cell(f"{text.rstrip('.')} ({', '.join(limits)})" if text and limits else text or ", ".join(limits))


def _examples(content: Schema) -> Iterator[str]:
    for example in content.get("examples", {}).values():
        value = example["value"]
        is_text = isinstance(value, str)
        text = value.rstrip() if is_text else json.dumps(value, indent=2, ensure_ascii=False)
        yield f"```{'text' if is_text else 'json'}\n{text}\n```"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
