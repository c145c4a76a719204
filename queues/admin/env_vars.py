"""A form field for environment variables, one `KEY=value` a line."""

import json
from collections.abc import Mapping
from typing import Any

from django import forms


class EnvVarsField(forms.CharField):
    """Environment variables as lines of text."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("strip", False)
        options.setdefault(
            "help_text",
            "One KEY=value per line. Quote a value to write line breaks as \\n. Secrets belong in vaults.",
        )
        attrs = {"rows": 4, "spellcheck": "false", "placeholder": "LOG_LEVEL=info"}
        super().__init__(widget=forms.Textarea(attrs=attrs), **options)

    def prepare_value(self, value: Any) -> Any:
        return format_env_vars(value) if isinstance(value, Mapping) else value

    def clean(self, value: Any) -> dict[str, str]:
        return parse_env_vars(super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return parse_env_vars(str(data or "")) != (initial or {})
        except forms.ValidationError:
            return True


def parse_env_vars(text: str) -> dict[str, str]:
    """Return the variables in a text. A value in double quotes is a JSON string. Raise ValidationError."""
    variables: dict[str, str] = {}
    errors = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        name, mark, value = line.partition("=")
        name = name.strip()
        if not mark:
            errors.append(f"Line {number}: Must be KEY=value.")
        elif name in variables:
            errors.append(f"Line {number}: {name} is set on an earlier line.")
        else:
            variables[name] = _unquoted(value)
    if errors:
        raise forms.ValidationError(errors)
    return variables


def format_env_vars(variables: Mapping[str, str]) -> str:
    """Return variables as a text that `parse_env_vars` reads back."""
    return "\n".join(f"{name}={_quoted(value)}" for name, value in variables.items())


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value.startswith('"') and value.endswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def _quoted(value: str) -> str:
    # Quoted if a line, or the browser's form, would change the value.
    needs_quotes = value != value.strip() or any(mark in value for mark in "\r\n\0") or _unquoted(value) != value
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value
