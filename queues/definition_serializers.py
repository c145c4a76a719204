"""The schema of a queue definition for queue files, the API and the admin form, with the rules of the models."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, ClassVar, TypeAlias, cast

from django.core.exceptions import ValidationError as ModelValidationError
from django.db import models
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from queues.definitions import (
    FieldType,
    LimitOverrides,
    PayloadField,
    QueueBase,
    QueueMode,
    QueueSpec,
    SubQueueSpec,
)
from queues.models import (
    DEFAULTS,
    DEPLOYMENT_COLUMNS,
    LIMIT_COLUMNS,
    ROLLOUT_COLUMNS,
    Queue,
    SubQueue,
    definition_key,
)
from queues.payload_schema import TOO_DEEP, is_nested_too_deep, payload_field_errors
from queues.validators import (
    env_var_errors,
    repeated_indices,
    sub_queue_name_error,
    validate_queue_name,
)
from queues.webhook_urls import normalize_hosts
from runqy.api.serializers import StrictBooleanField, StrictChoiceField, StrictIntegerField, StringField
from runqy.core.formats import durations, sizes
from runqy.errors import QueueInvalid
from vaults.validators import validate_vault_name

Path: TypeAlias = tuple[str | int, ...]
ERRORS_MAX = 20


@dataclass(frozen=True, slots=True)
class FieldError:
    """A message about the field at a path of a definition."""

    path: Path
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (format_path(self.path), self.message)))


class QueueDefinitionInvalid(QueueInvalid):
    """The definition of a queue is invalid."""

    def __init__(self, field_errors: Sequence[FieldError]) -> None:
        super().__init__(errors=[str(error) for error in field_errors])
        self.field_errors = tuple(field_errors)


@extend_schema_field({"type": ["integer", "string"], "examples": [300, "5m"]})
class DurationField(StrictIntegerField):
    """Seconds, or in requests a duration such as `15m`; null: the server's default."""

    default_error_messages: ClassVar = {
        "type": "Must be a number of seconds or a duration such as 15m.",
        "too_short": "Must be at least {limit}, is {value}.",
        "too_long": "Must be at most {limit}, is {value}.",
    }

    def to_internal_value(self, data: Any) -> int:
        seconds = self._parse(data)
        # Before DRF's validators, which would compare seconds that nobody typed.
        if self.min_value is not None and seconds < self.min_value:
            self.fail("too_short", limit=_format(self.min_value), value=_format(seconds))
        if self.max_value is not None and seconds > self.max_value:
            self.fail("too_long", limit=_format(self.max_value), value=_format(seconds))
        return seconds

    def _parse(self, data: Any) -> int:
        if not isinstance(data, str):
            return super().to_internal_value(data)
        try:
            return durations.parse_s(data)
        except ValueError as error:
            raise serializers.ValidationError(f"{error}.") from error


def _format(seconds: int) -> str:
    return durations.format_short(seconds) if seconds > 0 else f"{seconds}s"


@extend_schema_field({"type": ["integer", "string"], "examples": [1048576, "1MiB"]})
class SizeField(StrictIntegerField):
    """Bytes, or in requests a size such as `50MiB`; null: the server's default."""

    default_error_messages: ClassVar = {"type": "Must be a number of bytes or a size such as 50MiB."}

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, str):
            return super().to_internal_value(data)
        try:
            return sizes.parse_bytes(data)
        except ValueError as error:
            raise serializers.ValidationError(f"{error}.") from error


@extend_schema_field({"type": ["string", "array"], "items": {"type": "string"}, "examples": [["string", "int"]]})
class PayloadTypesField(serializers.ListField):
    """The types that a payload's field may have; in requests also a single one."""

    child = StrictChoiceField(choices=[kind.value for kind in FieldType])

    def to_internal_value(self, data: Any) -> list[str]:
        if isinstance(data, str):
            return [self.child.run_validation(data)]
        return super().to_internal_value(data)


class DefinitionSerializer(serializers.ModelSerializer[Any]):
    """A part of a definition: strict about JSON types and unknown fields."""

    serializer_field_mapping: ClassVar = {
        **serializers.ModelSerializer.serializer_field_mapping,
        models.CharField: StringField,
        models.BooleanField: StrictBooleanField,
        models.PositiveIntegerField: StrictIntegerField,
        models.PositiveSmallIntegerField: StrictIntegerField,
        models.PositiveBigIntegerField: DurationField,
    }
    serializer_choice_field = StrictChoiceField

    def to_internal_value(self, data: Any) -> Any:
        errors: dict[str, Any] = {}
        try:
            validated = super().to_internal_value(data)
        except serializers.ValidationError as error:
            errors = dict(error.detail)  # type: ignore[arg-type]  # a serializer's errors are a dict
        if isinstance(data, Mapping):
            for name in map(str, data):
                if name not in self.fields:
                    errors |= self._unknown_field(name, errors)
        if errors:
            raise serializers.ValidationError(errors)
        return validated

    def _unknown_field(self, name: str, errors: dict[str, Any]) -> dict[str, list[str]]:
        # A misspelled required field is one mistake: its own error replaces that of the missing field.
        close = difflib.get_close_matches(name, self.fields, n=1)
        if close and _is_required_error(errors.get(close[0])):
            errors.pop(close[0], None)
        return {name: [f"Unknown field; did you mean `{close[0]}`?" if close else "Unknown field."]}


_OWN_COLUMNS = tuple(column for column in DEPLOYMENT_COLUMNS if column not in ROLLOUT_COLUMNS)


class SubQueueSerializer(DefinitionSerializer):
    """A sub-queue."""

    class Meta:
        model = SubQueue
        fields: ClassVar = ["name", "priority"]
        extra_kwargs: ClassVar = {"priority": {"required": True}}


def column_field(column: str) -> "models.Field[Any, Any]":
    field = Queue._meta.get_field(column)
    assert isinstance(field, models.Field)  # noqa: S101 (the others are relations)
    return field


def _validators(column: str) -> list[Any]:
    return list(column_field(column).validators)


class QueueLimitsSerializer(DefinitionSerializer):
    """The limits of a queue's tasks, in seconds and bytes in responses."""

    class Meta:
        model = Queue
        fields: ClassVar = [definition_key(column) for column in LIMIT_COLUMNS]
        extra_kwargs: ClassVar = {
            definition_key(column): {"source": column} for column in LIMIT_COLUMNS if definition_key(column) != column
        }

    def build_standard_field(self, field_name: str, model_field: Any) -> Any:
        kind, options = super().build_standard_field(field_name, model_field)
        return SizeField if field_name.endswith("_bytes") else kind, options

    def to_representation(self, instance: LimitOverrides) -> dict[str, Any]:
        return {name: value for name, value in super().to_representation(instance).items() if value is not None}


@extend_schema_field({"type": ["integer", "string"], "examples": ["25%"]})
class PercentField(StrictIntegerField):
    """A share in percent, such as `25%`; in requests also a number."""

    default_error_messages: ClassVar = {"type": "Must be a percentage such as 25%."}

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, str) and data.endswith("%") and (digits := data[:-1]).isascii() and digits.isdigit():
            data = int(digits[:9])
        return super().to_internal_value(data)

    def to_representation(self, value: Any) -> Any:
        return f"{value}%"


class RolloutSerializer(DefinitionSerializer):
    """How workers change to a new release."""

    max_unavailable = PercentField(
        source="rollout_max_unavailable",
        required=False,
        validators=_validators("rollout_max_unavailable"),
        help_text=column_field("rollout_max_unavailable").help_text,
    )

    class Meta:
        model = Queue
        fields: ClassVar = [definition_key(column) for column in ROLLOUT_COLUMNS]
        extra_kwargs: ClassVar = {
            definition_key(column): {"source": column} for column in ROLLOUT_COLUMNS if definition_key(column) != column
        }


class DeploymentSerializer(DefinitionSerializer):
    """The code that workers deploy and start."""

    mode = StrictChoiceField(choices=[mode.value for mode in QueueMode], required=False, allow_null=True)
    startup_timeout_secs = DurationField(
        source="startup_timeout_s",
        required=False,
        default=DEFAULTS["startup_timeout_s"],
        validators=_validators("startup_timeout_s"),
    )
    env_vars = serializers.DictField(child=StringField(allow_blank=True), required=False)
    vaults = serializers.ListField(child=StringField(validators=[validate_vault_name]), required=False)
    rollout = RolloutSerializer(required=False, source="*")
    limits = QueueLimitsSerializer(required=False)

    class Meta:
        model = Queue
        fields: ClassVar = [*map(definition_key, _OWN_COLUMNS), "rollout", "mode", "limits"]
        extra_kwargs: ClassVar = {
            **{definition_key(column): {"default": DEFAULTS[column]} for column in _OWN_COLUMNS if column in DEFAULTS},
            "branch": {
                "default": DEFAULTS["branch"],
                "allow_blank": True,
                "help_text": "A branch or a tag; empty: the default",
            },
        }

    def validate_branch(self, branch: str) -> str:
        return branch or str(DEFAULTS["branch"])

    def validate_code_path(self, path: str) -> str:
        return path.rstrip("/")

    def validate_env_vars(self, env_vars: dict[str, str]) -> dict[str, str]:
        if errors := env_var_errors(env_vars):
            raise serializers.ValidationError({name: [message] for name, message in errors.items()})
        return env_vars

    def validate_vaults(self, vaults: list[str]) -> list[str]:
        if repeated := repeated_indices(vaults):
            raise _nested_errors({index: ["Is listed more than once."] for index in repeated})
        return vaults

    def to_representation(self, instance: QueueSpec) -> dict[str, Any]:
        columns = {column: getattr(instance.deployment, column) for column in DEPLOYMENT_COLUMNS}
        return super().to_representation(columns | {"mode": instance.mode.value, "limits": instance.limits})


class PayloadDefaultField(serializers.JSONField):
    """A default of any JSON type, nested no deeper than its readers can follow."""

    def to_internal_value(self, data: Any) -> Any:
        if is_nested_too_deep(data):
            raise serializers.ValidationError(TOO_DEEP)
        return super().to_internal_value(data)


class PayloadFieldSerializer(DefinitionSerializer):
    """A field of a payload schema."""

    name = StringField()
    type = PayloadTypesField(allow_empty=False)
    required = StrictBooleanField(required=False)  # type: ignore[assignment]
    default = PayloadDefaultField(required=False)
    description = StringField(required=False, allow_blank=True)

    class Meta:
        model = Queue
        fields: ClassVar = ["name", "type", "required", "default", "description"]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if errors := dict(payload_field_errors(PayloadField.from_json(attrs))):
            raise serializers.ValidationError({key: [message] for key, message in errors.items()})
        return attrs

    def to_representation(self, instance: PayloadField) -> dict[str, Any]:
        return instance.to_json()


class QueueDefinitionSerializer(DefinitionSerializer):
    """A queue as in queue files. Its name is in the context."""

    priority = StrictIntegerField(
        required=False,
        allow_null=True,
        validators=_validators("priority"),
        help_text="Required unless `sub_queues` are given",
    )
    mode = StrictChoiceField(choices=[mode.value for mode in QueueMode], required=False, allow_null=True)
    sub_queues = SubQueueSerializer(many=True, required=False)
    deployment = DeploymentSerializer()
    webhook_hosts = serializers.ListField(
        child=StringField(), required=False, help_text=column_field("webhook_hosts").help_text
    )
    input = PayloadFieldSerializer(many=True, required=False)
    output = PayloadFieldSerializer(many=True, required=False)

    class Meta:
        model = Queue
        fields: ClassVar = [
            *(column.name for column in fields_of(QueueBase) if column.name not in ("name", "is_enabled"))
        ]

    def validate_sub_queues(self, sub_queues: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = [sub["name"] for sub in sub_queues]
        errors = {
            index: {"name": [message]}
            for index, name in enumerate(names)
            if (message := sub_queue_name_error(self.context["name"], name))
        }
        errors |= {index: {"name": ["Another sub-queue has this name."]} for index in repeated_indices(names)}
        if errors:
            raise _nested_errors(errors)
        return sub_queues

    def validate_webhook_hosts(self, hosts: list[str]) -> list[str]:
        try:
            return normalize_hosts(hosts)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error

    def validate_input(self, fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return _unique_names(fields)

    def validate_output(self, fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return _unique_names(fields)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("priority") is None and not attrs.get("sub_queues"):
            raise serializers.ValidationError({"priority": ["This field is required unless sub_queues are given."]})
        mode, deployed_mode = attrs.get("mode"), attrs["deployment"].get("mode")
        if mode and deployed_mode and mode != deployed_mode:
            raise serializers.ValidationError({"mode": [f"deployment.mode is {deployed_mode}."]})
        return attrs

    def to_representation(self, instance: QueueSpec) -> dict[str, Any]:
        members = {column.name: getattr(instance, column.name) for column in fields_of(instance)}
        return super().to_representation(members | {"deployment": instance})


class QueueParser:
    """Parse definitions as in queue files, many with one serializer, which takes longer to create than to use."""

    def __init__(self) -> None:
        self._context = {"name": ""}
        self._serializer = QueueDefinitionSerializer(context=self._context)

    def parse(self, name: str, data: object) -> QueueSpec:
        """Return the queue in a definition. Raise QueueDefinitionInvalid."""
        self._context["name"] = name
        errors = _name_errors(name)
        attrs: dict[str, Any] = {}
        try:
            attrs = self._serializer.run_validation(data)
        except serializers.ValidationError as error:
            errors += flatten_errors(error.detail)
        if errors:
            raise QueueDefinitionInvalid(errors[:ERRORS_MAX])
        return _to_spec(name, attrs)


def parse_queue(name: str, data: object) -> QueueSpec:
    """Return the queue in a definition as in queue files. Raise QueueDefinitionInvalid."""
    return QueueParser().parse(name, data)


def _to_spec(name: str, attrs: dict[str, Any]) -> QueueSpec:
    deployment: dict[str, Any] = {**attrs["deployment"]}
    mode = attrs.get("mode") or deployment.get("mode") or QueueMode.LONG_RUNNING
    deployment.pop("mode", None)
    limits = deployment.pop("limits", {})
    subs = [SubQueueSpec(**sub) for sub in attrs.get("sub_queues", ())]
    # Without sub-queues a priority is required.
    columns = {"name": name, "mode": mode, "priority": attrs.get("priority") or 0}
    return QueueSpec.build(**attrs | columns | {"deployment": deployment, "limits": limits, "sub_queues": subs})


def parse_change(name: str, before: QueueSpec | None, *, definition: Mapping[str, Any]) -> QueueSpec:
    """Return the queue in a definition, or an existing one as it changes it. Members that it lacks keep their values.

    Released command lines do not send `limits` and `input`, and must not reset them. Raise QueueDefinitionInvalid.
    """
    deployment = definition.get("deployment")
    if before is None or not isinstance(deployment, Mapping):
        return parse_queue(name, definition)
    kept: dict[str, Any] = dict(QueueDefinitionSerializer(before).data)
    kept_deployment: dict[str, Any] = dict(kept["deployment"])
    if "mode" in definition or "mode" in deployment:
        del kept["mode"], kept_deployment["mode"]
    return parse_queue(name, {**kept, **definition, "deployment": {**kept_deployment, **deployment}})


def _name_errors(name: str) -> list[FieldError]:
    try:
        validate_queue_name(name)
    except ModelValidationError as error:
        return [FieldError(("name",), message) for message in error.messages]
    return []


def flatten_errors(detail: Any, path: Path = ()) -> Iterator[FieldError]:
    """Yield each message in a serializer's errors, with the path of its field."""
    if isinstance(detail, Mapping):
        for name, nested in detail.items():
            yield from flatten_errors(nested, path if name == "non_field_errors" else (*path, name))
    elif isinstance(detail, list) and any(isinstance(item, Mapping) for item in detail):
        for index, nested in enumerate(detail):
            yield from flatten_errors(nested, (*path, index))
    elif isinstance(detail, list):
        yield from (FieldError(path, str(message)) for message in detail)
    else:
        yield FieldError(path, str(detail))


def format_path(path: Path) -> str:
    """Return a path as text: `deployment.vaults[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in path).lstrip(".")


def _is_required_error(detail: Any) -> bool:
    return isinstance(detail, list) and [getattr(error, "code", "") for error in detail] == ["required"]


def _nested_errors(errors: dict[int, Any]) -> serializers.ValidationError:
    """Return the error of a list, with messages by index, as DRF's list fields raise it."""
    return serializers.ValidationError(cast("dict[str, Any]", errors))


def _unique_names(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if repeated := repeated_indices([field["name"] for field in fields]):
        raise _nested_errors({index: {"name": ["Another field has this name."]} for index in repeated})
    return fields
