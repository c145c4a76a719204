"""Serializer fields of query parameters. Their values are strings, and most treat an empty one as missing."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.core.validators import MaxLengthValidator
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from runqy.api.serializers import StrictChoiceField
from runqy.core.formats import durations
from runqy.errors import choices_error

_MAX_LENGTH = 255
_MAX_DIGITS = 18
_MAX_DURATION_NS = 10 * 365 * 24 * 3600 * 10**9


class TextParameter(serializers.CharField):
    """An optional text."""

    def __init__(self, help_text: str) -> None:
        super().__init__(
            required=False,
            allow_blank=True,
            default="",
            help_text=help_text,
            validators=[MaxLengthValidator(_MAX_LENGTH)],
        )


class FlagParameter(serializers.BooleanField):
    """A boolean, by default false. An empty value is refused, since `?dry_run` is not meant as false."""

    default_error_messages: ClassVar = {"invalid": "Must be true or false."}

    def __init__(self, help_text: str, *, default: bool = False) -> None:
        super().__init__(required=False, default=default, help_text=help_text)


class ChoiceParameter(StrictChoiceField):
    """A choice, required unless it has a default. With `allow_blank` an empty value means the default."""

    def __init__(
        self, choices: Sequence[str], help_text: str = "", *, default: str = "", allow_blank: bool = False
    ) -> None:
        super().__init__(
            choices=choices,
            help_text=help_text,
            required=not default,
            default=default or serializers.empty,
            allow_blank=allow_blank,
            error_messages={"required": choices_error(choices)},
        )
        self._default = default

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(self._default if data == "" and self.allow_blank else data)


class IntegerParameter(serializers.IntegerField):
    """An optional integer."""

    def __init__(self, help_text: str, *, lowest: int, highest: int) -> None:
        message = f"Must be an integer from {lowest} to {highest}."
        messages: Any = dict.fromkeys(("invalid", "min_value", "max_value"), message)
        super().__init__(
            required=False,
            default=None,
            min_value=lowest,
            max_value=highest,
            help_text=help_text,
            error_messages=messages,
        )

    def to_internal_value(self, data: Any) -> int:
        # int() would also read "1_000" and digits of other scripts.
        if not (data.isascii() and data.isdigit() and len(data) <= _MAX_DIGITS):
            self.fail("invalid")
        return super().to_internal_value(data)


@extend_schema_field({"type": ["number", "string"], "minimum": 0, "examples": [30, "5m"]})
class DurationParameter(serializers.Field[Any, Any, Any, Any]):
    """An optional duration, in ns."""

    def __init__(self, help_text: str, *, default_ns: int | None = None) -> None:
        super().__init__(required=False, default=default_ns, help_text=help_text)

    def to_internal_value(self, data: str) -> int:
        try:
            nanoseconds = durations.parse_ns(data)
        except ValueError as error:
            raise serializers.ValidationError(f"{error}.") from error
        if nanoseconds > _MAX_DURATION_NS:
            raise serializers.ValidationError("Must be at most ten years.")
        return nanoseconds

    def to_representation(self, value: int) -> float:
        """Return the seconds, as the schema shows a default."""
        return value / 10**9


@extend_schema_field({"type": "integer", "minimum": 1})
class LimitParameter(serializers.Field[Any, Any, Any, Any]):
    """The maximum number of items. Values above `most` are reduced to it."""

    def __init__(self, help_text: str, *, default: int, most: int) -> None:
        super().__init__(required=False, default=default, help_text=help_text)
        self._default, self._most = default, most

    def to_internal_value(self, data: str) -> int:
        if not data:
            return self._default
        if not (data.isascii() and data.isdigit()) or int(data[:_MAX_DIGITS]) < 1:
            raise serializers.ValidationError("Must be a positive integer.")
        return min(int(data[:_MAX_DIGITS]), self._most)
