"""Serializers and fields that API bodies share: strict about members and JSON types, or defined by a struct."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import Direction, extend_schema_field
from rest_framework import serializers

from runqy.core.formats.json_decoding import FOR_RELEASED_CLIENTS
from runqy.core.formats.timestamps import format_ns, format_s
from runqy.errors import RequestInvalid, RunqyError, choices_error


class PublishedField(serializers.BooleanField):
    """Whether a change of the configuration was published to Redis."""

    def __init__(self, **options: Any) -> None:
        options.setdefault(
            "help_text",
            "False: saved, but not yet published, since Redis is unavailable; servers read it from the database",
        )
        super().__init__(**options)


class WorkerCountsSerializer(serializers.Serializer[Any]):
    """The number of worker processes; a process that serves several queues counts once."""

    ready = serializers.IntegerField(help_text="They dequeue tasks")
    not_ready = serializers.IntegerField(help_text="Starting, deploying, failed to start or draining")
    disconnected = serializers.IntegerField(help_text="Without a recent heartbeat")


class BodySerializer(serializers.Serializer[Any]):
    """A request body; members that it does not describe are ignored."""

    error_class: ClassVar[type[RunqyError]] = RequestInvalid
    """Raised for members of the right shape with values that are not allowed."""

    @classmethod
    def validated(cls, data: Any, *, partial: bool = False) -> dict[str, Any]:
        """Return the validated members of a body; with `partial`, only those that it has.

        Raise RequestInvalid if members are missing, unknown or of a wrong type, otherwise `error_class`. Each wrong
        member has a message.
        """
        body = cls(data=data, partial=partial)
        try:
            body.is_valid(raise_exception=True)
        except serializers.ValidationError as error:
            is_misshapen = not _SHAPE_CODES.isdisjoint(_codes(error.get_codes()))
            error_class = RequestInvalid if is_misshapen else cls.error_class
            raise error_class(errors=list(error_messages(error.detail))) from error
        validated: dict[str, Any] = body.validated_data
        return validated


class StrictSerializer(BodySerializer):
    """A request body that refuses unknown members: a misspelled limit must not be ignored."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := [name for name in data if name not in self.fields]):
            errors = {str(name): serializers.ErrorDetail("Unknown field.", "unknown") for name in unknown}
            raise serializers.ValidationError(errors)
        return super().to_internal_value(data)


_SHAPE_CODES = {"required", "null", "type", "unknown", "not_a_list", "not_a_dict", "empty"}


def _codes(nested: Any) -> Iterator[str]:
    if isinstance(nested, str):
        yield nested
    else:
        for part in nested.values() if isinstance(nested, Mapping) else nested:
            yield from _codes(part)


def error_messages(detail: Any, path: str = "") -> Iterator[str]:
    """Yield each message of a ValidationError's detail as `field.nested[0]: message`."""
    if isinstance(detail, Mapping):
        for name, nested in detail.items():
            is_general = name == "non_field_errors"
            label = name if isinstance(name, int) else str(name)[:64]
            nested_path = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{label}" if path else str(label)
            yield from error_messages(nested, path if is_general else nested_path)
    elif isinstance(detail, Sequence) and not isinstance(detail, str):
        for index, nested in enumerate(detail):
            yield from error_messages(nested, f"{path}[{index}]" if isinstance(nested, Mapping) else path)
    else:
        yield f"{path}: {detail}" if path else str(detail)


class StrictSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Add `additionalProperties: false` to the schema of strict bodies."""

    target_class = StrictSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        map_by_default: Any = auto_schema._map_serializer  # noqa: SLF001 (drf-spectacular's documentation calls it)
        described: dict[str, Any] = map_by_default(self.target, direction, bypass_extensions=True)
        return {**described, "additionalProperties": False}


class StringField(serializers.CharField):
    """A JSON string; DRF's CharField also accepts numbers, and trims."""

    default_error_messages: ClassVar = {"type": "Must be a string."}

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"trim_whitespace": False, **options})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("type")
        return super().to_internal_value(data)


class PatternField(StringField, serializers.RegexField):
    """A JSON string that matches a pattern."""


class StrictBooleanField(serializers.BooleanField):
    """A JSON boolean; DRF's BooleanField also accepts strings and numbers."""

    default_error_messages: ClassVar = {"type": "Must be true or false."}

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("type")
        return data


class StrictIntegerField(serializers.IntegerField):
    """A JSON integer; DRF's IntegerField also accepts strings and booleans."""

    default_error_messages: ClassVar = {"type": "Must be an integer."}

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("type")
        return super().to_internal_value(data)


class StrictChoiceField(serializers.ChoiceField):
    """A choice; the error message lists the valid ones."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, str) and data in self.choices:
            return data
        raise serializers.ValidationError(choices_error(self.choices), "invalid_choice")


class AwareDateTimeField(serializers.DateTimeField):
    """A time with an offset from UTC."""

    default_error_messages: ClassVar = {"naive": "Must have an offset from UTC, for example Z."}

    def enforce_timezone(self, value: datetime) -> datetime:
        if value.tzinfo is None:
            self.fail("naive")
        return super().enforce_timezone(value)

    def default_timezone(self) -> tzinfo:
        # Not Django's current one, which in the admin is that of the reader: the API's format ends with Z.
        return UTC


@extend_schema_field({"type": "string"})
class EmptyAsNullField(serializers.Field[Any, Any, Any, Any]):
    """A string, rendered as null when it is empty."""

    def to_representation(self, value: str) -> str | None:
        return value or None


@extend_schema_field({"type": "string", "format": "date-time"})
class UnixSecondsField(serializers.Field[Any, Any, Any, Any]):
    """Unix seconds, rendered as RFC 3339 in UTC; 0, asynq's missing value, as null."""

    def to_representation(self, value: int) -> str | None:
        return format_s(value or None)


@extend_schema_field({"type": "string", "format": "date-time"})
class UnixNanosecondsField(serializers.Field[Any, Any, Any, Any]):
    """Unix nanoseconds, rendered as RFC 3339 in UTC."""

    def to_representation(self, value: int) -> str | None:
        return format_ns(value)


_REF = "#/components/schemas/"


class NamesField(serializers.ListField):
    """A list of names or messages."""

    child = serializers.CharField()


class StructSerializer(serializers.BaseSerializer[Any]):
    """Render a struct; the renderer encodes it, so that payloads and results keep their bytes.

    Subclasses set `struct`, and return one from `to_representation`.
    """

    struct: ClassVar[type[msgspec.Struct]]


class StructSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Derive the OpenAPI schema from the struct's fields. Nested structs and enumerations are components."""

    target_class = StructSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        struct = self.target.struct
        _, definitions = msgspec.json.schema_components([struct], ref_template=f"{_REF}{{name}}")
        by_struct: dict[str, Any] = {each.struct.__name__: each for each in StructSerializer.__subclasses__()}
        names: dict[str, str] = {}
        for name in definitions.keys() - {struct.__name__}:
            if serializer := by_struct.get(name):
                names[name] = auto_schema.resolve_serializer(serializer(), direction).name
        mapped = {name: _adapt(definition, names) for name, definition in definitions.items()}
        for name in sorted(mapped.keys() - {struct.__name__, *names}):
            auto_schema.registry.register_on_missing(
                ResolvedComponent(name, ResolvedComponent.SCHEMA, mapped[name], object=name)  # type: ignore[no-untyped-call]
            )
        described: dict[str, Any] = mapped[struct.__name__]
        if base := by_struct.get(struct.__base__.__name__):
            return _extend(auto_schema.resolve_serializer(base(), direction), described)
        return described


def _extend(base: ResolvedComponent, described: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a struct that has the fields of another, by reference, and more."""
    inherited = base.schema["properties"]
    own = {name: value for name, value in described["properties"].items() if name not in inherited}
    required = [name for name in described["required"] if name not in inherited]
    return {"allOf": [base.ref, {"type": "object", "properties": own, "required": required}]}


def _adapt(node: Any, names: Mapping[str, str]) -> Any:
    """Return a schema as msgspec makes it without classes' names, with the names of components."""
    if isinstance(node, list):
        return [_adapt(part, names) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].removeprefix(_REF)
        node = {**node, "$ref": f"{_REF}{names.get(name, name)}"}
    if "properties" in node:
        kept = {
            name: member
            for name, member in node["properties"].items()
            if not FOR_RELEASED_CLIENTS.items() <= member.items()
        }
        node = {**node, "properties": kept}
    if "enum" in node and "type" not in node:
        node = {"type": "string", **node}  # msgspec leaves it out; our enumerations are of strings
    return {key: _adapt(value, names) for key, value in node.items() if key != "title"}
