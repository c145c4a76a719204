"""Serializers whose one definition is a msgspec struct, shared with code that does not use DRF."""

from typing import Any, ClassVar

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction
from rest_framework import serializers

_REF = "#/$defs/"


class StructSerializer(serializers.BaseSerializer[Any]):
    """Render a struct; the renderer encodes it, so that payloads and results keep their bytes.

    Subclasses name the struct, and make it of their instance in `to_representation`.
    """

    struct: ClassVar[type[msgspec.Struct]]


class StructSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Derive the OpenAPI schema from the struct's fields."""

    target_class = StructSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return struct_schema(self.target.struct)


def struct_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of a struct, nested structs inline."""
    (reference,), definitions = msgspec.json.schema_components([struct], ref_template=f"{_REF}{{name}}")
    schema: dict[str, Any] = _inline(reference, definitions)
    return schema


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """Replace references by what they refer to, and drop titles, which repeat the class names."""
    if isinstance(node, list):
        return [_inline(part, definitions) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix(_REF)]
        return _inline({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    if "enum" in node and "type" not in node:
        node = {"type": "string", **node}  # msgspec leaves it out; our enumerations are of strings
    return {key: _inline(value, definitions) for key, value in node.items() if key != "title"}
