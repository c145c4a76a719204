"""Form fields for durations and sizes with a unit."""

from collections.abc import Callable
from typing import Any

from django import forms

from runqy.core.formats import durations, sizes


class LimitFormField(forms.CharField):
    """A limit that is entered with a unit. Empty for the server's default."""

    parse: Callable[[str], int]
    format: Callable[[int], str]

    def __init__(self, *, min_value: Any = None, max_value: Any = None, **options: Any) -> None:
        super().__init__(**options | {"empty_value": None, "widget": forms.TextInput(attrs={"autocomplete": "off"})})

    def prepare_value(self, value: Any) -> Any:
        return self.format(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> int | None:  # type: ignore[override]
        text = super().to_python(value)
        try:
            return None if text is None else self.parse(text)
        except ValueError as error:
            raise forms.ValidationError(f"{error}.") from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except forms.ValidationError:
            return True


class DurationFormField(LimitFormField):
    """A limit in seconds, entered as a duration such as 10m."""

    parse = staticmethod(durations.parse_s)
    format = staticmethod(durations.format_short)


class SizeFormField(LimitFormField):
    """A limit in bytes, entered as a size such as 1MiB."""

    parse = staticmethod(sizes.parse_bytes)
    format = staticmethod(sizes.format_short)
